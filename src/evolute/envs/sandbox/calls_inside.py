"""Inside a sandbox: calls one program with each of many inputs, every call in a fork of its own.

Standard library only; `calls.py` puts it into the box with `_values.py`, the program and the calls.
One line a call goes to stdout: index, state, seconds, then the value or the error, as JSON.
"""

from __future__ import annotations

import io
import json
import os
import selectors
import shutil
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any, NoReturn

import _values  # type: ignore[import-not-found]  # it lies beside this file in the box

LAST_S = 0.3  # for a call's processes to go
OURS = {"_values.py", "_program.py", "_calls.json", "program.py"}
SHARED = ("/tmp", "/dev/shm")
Told = dict[str, Any]
Answer = tuple[str, str, float]  # state, value or error, seconds


def main() -> None:
    with open("_calls.json") as file:
        told = json.load(file)
    with open("_program.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    is_alone, texts = told["isolates"] and is_sandboxed(), told["inputs"]
    groups = [texts] if told["together"] else [[text] for text in texts]
    out, index = os.dup(1), 0
    for group in groups:
        for state, said, seconds in calls(source, told, group, is_alone):
            line = json.dumps([index, state, round(seconds, 4), said])
            write(out, line.encode() + b"\n")
            index += 1


def is_sandboxed() -> bool:
    """Are all processes that can be seen the sandbox's own? Only then may they be ended."""
    with open("/proc/1/comm") as file:
        return file.read().strip() == "bwrap"


def calls(source: str, told: Told, texts: list[str], is_alone: bool) -> Iterator[Answer]:
    """State, value or error, and seconds of calls that share a process."""
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        for _ in texts:
            yield "died", f"no process could be started: {error}", 0.0
        return
    if child == 0:
        os.close(reading)
        os.setsid()
        answer(source, told, texts, writing)
    os.close(writing)
    said, is_late = collect(reading, told["seconds"], 2 * told["most"] + 4096, len(texts))
    os.close(reading)
    code = None if is_late else wait(child)
    end_all(child, is_alone)
    clear(is_alone)
    if code is None:
        code = os.waitpid(child, 0)[1]
    yield from said
    if len(said) < len(texts):
        yield (*verdict(is_late, code, told["seconds"]), told["seconds"] if is_late else 0.0)
    for _ in texts[len(said) + 1 :]:
        yield "died", "an earlier call ended the process", 0.0


def verdict(is_late: bool, code: int, seconds: float) -> tuple[str, str]:
    """What became of the call that gave no answer."""
    if is_late or (os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGXCPU):
        return "timeout", f"no answer after {seconds:g} s"
    if os.WIFSIGNALED(code):
        return "died", f"ended by {signal.Signals(os.WTERMSIG(code)).name}"
    return "died", f"ended with exit code {os.WEXITSTATUS(code)} without an answer"


def collect(reading: int, seconds: float, most: int, count: int) -> tuple[list[Answer], bool]:
    """What the child says until it has answered all or closes the pipe; True: time was up."""
    os.set_blocking(reading, False)
    said: list[Answer] = []
    began, data = time.monotonic(), b""
    until = began + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while len(said) < count and len(data) <= most:
            left = until - time.monotonic()
            if left <= 0 or not selector.select(left):
                return said, True
            part = os.read(reading, 65536)
            if not part:
                break
            *lines, data = (data + part).split(b"\n")
            for line in lines[: count - len(said)]:
                state, text = json.loads(line)
                said.append((state, text, time.monotonic() - began))
                began = time.monotonic()
    return said, False


def wait(child: int) -> int | None:
    """The child's end code; it has spoken, so it is ending. None: it is not."""
    until = time.monotonic() + LAST_S
    while time.monotonic() < until:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            return code
        time.sleep(0.001)
    return None


def end_all(child: int, is_alone: bool) -> None:
    """End the call's processes: all but this one, its parent and the first."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except OSError:
            continue
    keep = {1, os.getpid(), os.getppid()}
    until = time.monotonic() + LAST_S
    while is_alone and time.monotonic() < until:
        others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        alive = [pid for pid in others if pid not in keep and not is_dead(pid)]
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                keep.add(pid)
        if not alive:
            break


def is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def clear(is_alone: bool) -> None:
    """The next call finds the disks as the first one did."""
    for place in (".", *(SHARED if is_alone else ())):
        for entry in os.scandir(place):
            if place == "." and entry.name in OURS:
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
            except OSError:
                continue


def answer(source: str, told: Told, texts: list[str], writing: int) -> NoReturn:
    """In the child: run the program and say what each call gave, up to the first that gave none."""
    found: Any = None
    try:
        for text in texts:
            arguments = _values.decode(text)
            if not told["entry_point"]:
                value = program(source, arguments[0])
            else:
                found = found or function(source, told["entry_point"])
                value = found(*arguments)
            say(writing, *valued(value, told["most"]))
    except BaseException as error:
        say(writing, "raised", f"{type(error).__name__}: {error}"[:2000])
    finally:
        os._exit(0)


def valued(value: Any, most: int) -> tuple[str, str]:
    text = _values.encode(value)
    if len(text) <= most:
        return "ok", text
    return "raised", f"ValueError: the value has {len(text)} characters; {most} are read"


def say(writing: int, state: str, text: str) -> None:
    write(writing, json.dumps([state, text]).encode() + b"\n")


def function(source: str, entry_point: str) -> Any:
    """The function, or method, of that name in the loaded program."""
    redirect(0, os.open("/dev/null", os.O_RDONLY))
    redirect(1, os.open("/dev/null", os.O_WRONLY))
    redirect(2, os.open("/dev/null", os.O_WRONLY))
    first, *rest = entry_point.split(".")
    names = load(source, "program")
    if first not in names:
        raise NameError(f"the program does not define {first!r}")
    found = names[first]
    for name in rest:
        found = getattr(found() if isinstance(found, type) else found, name)
    return found


def program(source: str, stdin: str) -> str:
    """The whole program with a text as its stdin; what it printed."""
    with open("_stdin", "wb") as file:
        file.write(stdin.encode("utf-8", errors="surrogatepass"))
    redirect(0, os.open("_stdin", os.O_RDONLY))
    redirect(1, os.open("_stdout", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
    redirect(2, os.open("/dev/null", os.O_WRONLY))
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    try:
        load(source, "__main__")
    except SystemExit as ending:
        if ending.code not in (None, 0):
            raise RuntimeError(f"the program ended with exit code {ending.code}") from None
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    sys.stdout.flush()
    with open("_stdout", "rb") as file:
        return file.read().decode("utf-8", errors="replace")


def load(source: str, name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    module.__dict__["__file__"] = "program.py"
    if "random" in source:
        import random

        random.seed(0)
    exec(compile(source, "program.py", "exec"), module.__dict__)
    return module.__dict__


def redirect(descriptor: int, target: int) -> None:
    os.dup2(target, descriptor)
    os.close(target)


def write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
