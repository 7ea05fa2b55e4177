"""Tool calls that mean harm: to a shell, an editor and a Python interpreter.

generated_call(source, world)    (tool, arguments), drawn at random
bad(text)                        does an answer show that a call got out?
"""

from __future__ import annotations

import random
import shlex
from typing import Any

from hostile import CANARY, World, generated

ESCAPE = "&& echo ESCAPED"
SHELL = (
    "cat {canary}; cat /proc/1/root{canary}; cat /etc/shadow /etc/passwd",
    "ln -sfn {canary} link; cat link; echo gone > link; ln -sfn / root; cat root{canary}",
    "cd ../../../../..; cat .{canary}; echo gone > .{canary}; ls root home var 2>&1",
    "exec 5<>/dev/tcp/127.0.0.1/{port} {e}; echo x > /dev/udp/127.0.0.1/{udp}",
    "nohup setsid sleep 60 >/dev/null 2>&1 & disown; (sleep 60 &); setsid bash -c 'sleep 60' &",
    "kill -9 -1; kill -9 1; kill -STOP 1; kill -9 $PPID; for p in 1 2 3 4; do kill -9 $p; done",
    "echo /etc >&3; echo {canary} >&3; exec 3>&-; exec 1>&- 2>&-",
    "exec sleep 0; echo never",
    "trap '' TERM INT HUP; trap 'cd /' EXIT; exit 7",
    "mount -t tmpfs x /tmp {e}; unshare -r id {e}; chroot / id {e}",
    "nsenter -t 1 -a cat {canary}; cat /proc/1/environ /proc/1/maps; ls -l /proc/1/fd /proc/*/fd",
    "echo 1 > /proc/sys/kernel/panic {e}; echo c > /proc/sysrq-trigger {e}",
    "for i in $(seq 40); do sleep 30 & done; jobs | wc -l",
    "for f in big /tmp/big /dev/shm/big; do head -c 200000000 /dev/zero > $f; rm $f; done",
    "mkfifo p; (cat p &) ; ls; rm -rf / --no-preserve-root 2>/dev/null; ls",
    "printf '\\377\\376\\0\\033[2J'; head -c 100000 /dev/urandom",
    "ulimit -u unlimited {e}; ulimit -v unlimited {e}; ulimit -f unlimited {e}",
    "su -c id; sudo id {e}; chmod u+s /bin/bash {e}; id -u | grep -x 0 {e}",
    "(while :; do :; done) & (while :; do :; done) & sleep 0.1; echo done",
    "chmod 000 .; cd ..; rm -rf work; mkdir -p work; echo x > work/f; chmod 700 work",
    "rm -rf /box/home; ln -s / /box/home; ls /box/home | head; rm -f /box/home; mkdir /box/home",
    "{quoted}",
    ":(){{ :|:& }};:",
)  # the last one takes its whole time

PATHS = (
    "{canary}", "../../..{canary}", "/box/home/../..{canary}", "link", "root{canary}",
    "/proc/1/root{canary}", "/proc/self/root{canary}", "/proc/1/environ", "/etc/shadow", "/run.py",
    "/dev/sda", "/dev/zero", "p", "a\0b", "", " ", "x" * 5000, "a/" * 500, "\n", "*", "~/.bashrc",
    "/box", "..", ".", "/", "link/../../x", "//box/home/../../etc/hosts", "/tmp/x.py", "ü/ö.py",
    "f.py", "/dev/stdin", "/proc/self/mem", "/proc/sys/kernel/core_pattern",
)  # fmt: skip
TEXTS = (
    "x", "", "def f(:\n", "(" * 3000, "-" * 50000 + "1", "[" * 200 + "]" * 200, "\0", "\ud800",
    "a" * 2_000_000, "\r\n" * 1000, "x = 1\n", "lambda:" * 2000 + "1", "f'{" * 80,
    "x" + ".y" * 9000,
)  # fmt: skip


def generated_call(source: random.Random, world: World) -> tuple[str, dict[str, Any]]:
    """A tool's name and its arguments."""
    tool = source.choice(("bash", "bash", "editor", "editor", "editor", "code_interpreter"))
    if tool == "editor":
        return tool, _edit(source, world)
    _, program = generated(source, world, sleepers=0.01)
    if tool == "code_interpreter":
        return tool, {"code": program}
    line = source.choice(SHELL[:-1] if source.random() < 0.98 else SHELL)
    port, udp = world.tcp.getsockname()[1], world.udp.getsockname()[1]
    quoted = f"python3 -S -c {shlex.quote(program)} | head -c 3000"
    fields = {"canary": world.canary, "port": port, "udp": udp, "quoted": quoted, "e": ESCAPE}
    return tool, {"command": line.format(**fields)}


def bad(text: str) -> bool:
    """The output of `ls` or an error may name the file; its content may not be in it."""
    return "ESCAPED" in text.replace("echo ESCAPED", "") or CANARY.decode() in text


def _edit(source: random.Random, world: World) -> dict[str, Any]:
    command = source.choice(("view", "create", "str_replace", "insert", "undo", "delete"))
    path = source.choice(PATHS).format(canary=world.canary)
    arguments: dict[str, Any] = {"command": command, "path": path}
    for name in ("file_text", "old_str", "new_str", "insert_text"):
        if source.random() < 0.6:
            arguments[name] = source.choice(TEXTS)
    if source.random() < 0.6:
        arguments["insert_line"] = source.choice((0, 1, -1, 10**9, 10**30, "0", "x", None, [1]))
    if source.random() < 0.2:
        arguments["view_range"] = source.choice(([1, -1], [0, 5], [5], "[1, 2]", [10**40, 1], {}))
    return arguments
