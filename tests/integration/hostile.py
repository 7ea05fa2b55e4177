"""Programs that mean harm, by hand and by chance.

    FAMILIES                 name -> one program that tries everything of its kind
    generated(source, world) one program drawn at random
    World                    what they try to reach: a file, sockets; and what they left behind

A program that gets through prints ESCAPED; the world notices what it cannot print.
"""

from __future__ import annotations

import os
import random
import socket
import textwrap
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from evolute.envs.sandbox.bubblewrap import FIRST_SESSION_UID, FIRST_UID, MAX_SESSIONS

CANARY = b"nobody writes here"
TRY = """
import os, sys
def attempt(what, means_escape=True):
    try:
        value = what()
    except BaseException as error:
        return error
    if means_escape and value is not None and value != -1:
        print("ESCAPED", value, flush=True)
    return value
"""
CALL = (
    TRY
    + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    return attempt(lambda: None if getattr(libc, name)(*arguments) < 0 else name)
"""
)


@dataclass(frozen=True)
class World:
    """Outside: a file in a folder, and sockets that nobody may reach."""

    canary: Path
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    abstract: socket.socket

    def check(self) -> None:
        """Raises AssertionError when anything was reached or is left."""
        assert self.canary.read_bytes() == CANARY
        assert sorted(p.name for p in self.canary.parent.iterdir()) == ["canary", "socket"]
        for one in (self.tcp, self.unix, self.abstract):
            with suppress(BlockingIOError):
                one.accept()[0].close()
                raise AssertionError("a program reached a socket")
        with suppress(BlockingIOError):
            raise AssertionError(f"a program sent {self.udp.recv(100)!r}")
        assert left_behind() == []


def open_world(stack: ExitStack, folder: Path) -> World:
    canary = folder / "canary"
    canary.write_bytes(CANARY)
    kinds = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0evolute-{os.getpid()}"),
    }
    opened = {}
    for name, (family, kind, address) in kinds.items():
        one = stack.enter_context(socket.socket(family, kind))
        one.bind(address)
        one.setblocking(False)
        if kind == socket.SOCK_STREAM:
            one.listen(8)
        opened[name] = one
    return World(canary, **opened)


def left_behind() -> list[int]:
    """Processes of sandboxes of this process, dead ones aside."""
    found = []
    first = FIRST_SESSION_UID + MAX_SESSIONS * os.getpid()
    own = {FIRST_UID + 64 * os.getpid() + k for k in range(64)}
    own |= {first + k for k in range(MAX_SESSIONS)}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with suppress(OSError, IndexError, ValueError):
            status = (place / "status").read_text()
            uid = int(status.split("Uid:")[1].split()[0])
            state = status.split("State:")[1].split()[0]
            runner = b"/run.py" in (place / "cmdline").read_bytes() and uid == os.getuid() != 0
            if state not in "ZX" and (uid in own or runner):
                found.append(int(place.name))
    return found


# -- by hand -----------------------------------------------------------------


def network(world: World) -> str:
    address, unix = world.tcp.getsockname(), world.unix.getsockname()
    return TRY + textwrap.dedent(f"""
        import socket
        def reach(family, kind, address, text=b"out"):
            with socket.socket(family, kind) as one:
                one.settimeout(0.2)
                one.connect(address)
                one.send(text)
                return address
        attempt(lambda: reach(socket.AF_INET, socket.SOCK_STREAM, {address!r}))
        attempt(lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, {world.udp.getsockname()!r}))
        attempt(lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)))
        attempt(lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("::1", {address[1]})))
        attempt(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, {unix!r}))
        attempt(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, {world.abstract.getsockname()!r}))
        attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno())
        attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno())
        print("done")
    """)


def files(world: World) -> str:
    return TRY + textwrap.dedent(f"""
        canary = {str(world.canary)!r}
        places = [canary, "/proc/1/root" + canary, "/proc/self/root" + canary, "../.." + canary]
        attempt(lambda: os.symlink(canary, "link") or places.append("link"), False)
        attempt(lambda: os.symlink("/proc/1/root", "root") or places.append("root" + canary), False)
        for place in places:
            attempt(lambda: open(place, "rb").read())
            attempt(lambda: open(place, "wb").write(b"gone"))
            attempt(lambda: os.unlink(place) or ("unlinked" if place != "link" else None))
        for place in ("/etc/passwd", "/etc/shadow"):
            attempt(lambda: open(place).read())
        for place in ("/root", "/home", "/var", "/sys", "/run", "/boot"):
            attempt(lambda: os.listdir(place) or None)
        for place in ("/", "/usr", "/usr/bin", "/py", "/py/lib", "/run.py", "/proc/sys", "/dev"):
            attempt(lambda: open(place + "/new" if os.path.isdir(place) else place, "w").fileno())
        others = [p for p in os.listdir("/proc") if p.isdigit() and p != str(os.getpid())]
        for other in others:  # of the sandbox itself they may be read; what pytest set may not
            attempt(lambda: "PYTEST" in open(f"/proc/{{other}}/environ").read() or None)
        attempt(lambda: open("/proc/sys/kernel/core_pattern", "w").write("|x"))
        attempt(lambda: open("/proc/sysrq-trigger", "w").write("b"))
        attempt(lambda: os.open("/dev/mem", os.O_RDWR))
        attempt(lambda: os.mknod("device", 0o60666, os.makedev(8, 0)) or "mknod")
        print("done")
    """)


def forks(world: World) -> str:
    return TRY + textwrap.dedent("""
        import threading, time
        made, pids = 0, []
        for _ in range(300):
            pid = attempt(os.fork, False)
            if pid == 0:
                time.sleep(30); os._exit(0)
            made += isinstance(pid, int)
        for _ in range(300):
            made += attempt(lambda: threading.Thread(target=time.sleep, args=(30,), daemon=True)
                            .start() or 1, False) == 1
        if made > 16: print("ESCAPED", made)
        print("done", flush=True); os._exit(0)
    """)


def bomb(world: World) -> str:
    return "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"


def memory(world: World) -> str:
    return CALL + textwrap.dedent("""
        import mmap
        attempt(lambda: len(bytearray(10**10)))
        attempt(lambda: len(mmap.mmap(-1, 10**10)))
        attempt(lambda: os.memfd_create("x"))
        call("shmget", 0, 10**9, 0o1777)
        call("mlockall", 3)
        held = []
        attempt(lambda: [held.append(bytearray(2**24)) for _ in range(600)])
        held.clear(); print("done")
    """)


def disk(world: World) -> str:
    return TRY + textwrap.dedent("""
        def fill(place):
            written = 0
            try:
                for k in range(200):
                    with open(f"{place}/f{k}", "wb") as file:
                        written += file.write(b"x" * 2**20)
            except OSError:
                pass
            return f"{place} {written}" if written > 40 * 2**20 else None
        for place in (".", "/tmp", "/dev/shm", "/", "/dev", "/packages", "/py"):
            attempt(lambda: fill(place))
        attempt(lambda: [open(f"/tmp/n{k}", "w").close() for k in range(2000)], False)
        attempt(lambda: os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 10**12) or "sparse")
        print("done")
    """)


def output(world: World) -> str:
    return "import os\nwhile True: os.write(1, b'x' * 65536)\n"


def signals(world: World) -> str:
    return TRY + textwrap.dedent(f"""
        import signal
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            for pid in (1, os.getppid(), {os.getpid()}, -{os.getpid()}):
                if pid != os.getpid():
                    attempt(lambda: os.kill(pid, number), False)
        print("done", flush=True)
        attempt(lambda: os.kill(-1, signal.SIGKILL), False)
    """)


def sleeper(world: World) -> str:
    return textwrap.dedent("""
        import signal, time
        for number in range(1, 64):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        print("done", flush=True)
        while True: time.sleep(100)
    """)


def daemon(world: World) -> str:
    return textwrap.dedent("""
        import os, threading, time
        for keeps_output in (True, False):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    if not keeps_output:
                        for fd in range(64):
                            try: os.close(fd)
                            except OSError: pass
                    time.sleep(60)
                os._exit(0)
        print("done", flush=True)
        os._exit(0)
    """)


def kernel(world: World) -> str:
    return CALL + textwrap.dedent("""
        for flags in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x10020000):
            call("unshare", flags)
        call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
        call("umount2", b"/tmp", 2)
        call("chroot", b"/tmp"); call("pivot_root", b"/tmp", b"/tmp")
        call("ptrace", 16, os.getppid(), 0, 0); call("setns", 0, 0)
        call("personality", 0x0400000)
        for number in (321, 250, 248, 298, 425, 323, 29, 101, 310, 272, 165, 304, 435, 428, 175):
            call("syscall", number, 1, 0, 0, 0, 0)
        for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
            if os.getuid() != 0: attempt(lambda: change() or "root")
        attempt(lambda: os.write(os.open("/proc/self/uid_map", os.O_WRONLY), b"0 0 1"))
        pid = attempt(lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0), False)
        if pid == 0: print("ESCAPED clone", flush=True); os._exit(0)
        print("done")
    """)


def crash(world: World) -> str:
    return "import ctypes\nprint('done', flush=True)\nctypes.string_at(8)\n"


def recursion(world: World) -> str:
    """Through C, so that the stack ends before the memory."""
    return textwrap.dedent("""
        import sys
        sys.setrecursionlimit(10**9)
        def f(x): return max([x], key=f)
        print("done", flush=True)
        f(1)
    """)


FAMILIES: dict[str, Callable[[World], str]] = {
    "network": network,
    "files": files,
    "forks": forks,
    "bomb": bomb,
    "memory": memory,
    "disk": disk,
    "output": output,
    "signals": signals,
    "sleeper": sleeper,
    "daemon": daemon,
    "kernel": kernel,
    "crash": crash,
    "recursion": recursion,
}
ENDLESS = ("bomb", "sleeper")  # ended by the clock alone

# -- by chance ---------------------------------------------------------------


def generated(source: random.Random, world: World, sleepers: float = 0.04) -> tuple[str, str]:
    """Family and program: one or two families in a disguise, at most `sleepers` of them endless."""
    if source.random() < sleepers:
        name = source.choice(ENDLESS)
        return name, FAMILIES[name](world)
    names = [one for one in FAMILIES if one not in ENDLESS]
    first, second = source.choice(names), source.choice(names)
    program = _disguised(FAMILIES[first](world), source)
    if source.random() < 0.3:
        program = _guarded(program) + "\n" + _disguised(FAMILIES[second](world), source)
    return first, program


def _disguised(program: str, source: random.Random) -> str:
    """As it is, in a thread, in a fork, in a class body, through exec of encoded text, at exit."""
    code = f"exec(compile({program!r}, 'inner', 'exec'), {{'__name__': '__main__'}})"
    ways = (
        program,
        code,
        f"import threading\nt = threading.Thread(target=lambda: {code})\nt.start()\nt.join()\n",
        f"import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: {code}\n",
        f"class A:\n    def __del__(self): {code}\nA()\n",
        f"import atexit\natexit.register(lambda: {code})\n",
        f"import sys\nsys.stdout.write('x' * {source.randrange(5000)} + chr(10))\n{program}",
        f"import os\nos.chdir({source.choice(['/', '/tmp', '/dev/shm', '/proc'])!r})\n{program}",
        f"try:\n    {code}\nexcept BaseException as e:\n    print(type(e))\n    raise\n",
    )
    return source.choice(ways)


def _guarded(program: str) -> str:
    return f"try:\n    exec({program!r}, {{}})\nexcept BaseException: pass\n"
