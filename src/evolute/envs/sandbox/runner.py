"""What runs first in a sandbox: told its task by stdin, it drops its rights and runs the program.

Uses the standard library alone and is started as a script. Protocol: it writes `ready` to the
status pipe, reads a length and a marshalled header from stdin (what follows there is the program's
own stdin), forks, and reports `exit CODE CPU`, `signal NUMBER CPU` or `error TEXT`.
"""

from __future__ import annotations

import marshal
import os
import resource
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module typing takes longer to load than all the rest
    from typing import Any

LENGTH = 16  # hexadecimal digits before the header
NOT_SET_UP = 3  # exit code of a child that could not begin


def main() -> None:
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    os.write(status, b"ready\n")
    header = read_header()
    if header is None:  # whoever started us is gone
        return
    child = os.fork()
    if child == 0:
        begin(header, status)
        run(header)
        return
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    _, code, usage = os.wait4(child, 0)
    cpu = usage.ru_utime + usage.ru_stime
    word = f"signal {os.WTERMSIG(code)}" if os.WIFSIGNALED(code) else f"exit {os.WEXITSTATUS(code)}"
    os.write(status, f"{word} {cpu:.3f}\n".encode())
    os._exit(0)


def read_header() -> dict[str, Any] | None:
    length = read_exactly(LENGTH)
    if length is None:
        return None
    data = read_exactly(int(length, 16))
    return None if data is None else marshal.loads(data)


def read_exactly(size: int) -> bytes | None:
    """Bytes of stdin, unbuffered: the rest is the program's. None when it ends too early."""
    parts = []
    while size > 0:
        part = os.read(0, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def begin(header: dict[str, Any], status: int) -> None:
    """Become somebody without rights, within limits, in the box with its files."""
    try:
        drop(header["uid"])
        for name, soft, hard in header["limits"]:
            number = getattr(resource, name)
            most = resource.getrlimit(number)[1]
            hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
            resource.setrlimit(number, (min(soft, hard), hard))
        os.chdir(header["box"])
        for name, data in header["files"].items():
            with open(name, "wb") as file:
                file.write(data)
    except BaseException as error:
        os.write(status, f"error {type(error).__name__}: {error}\n".encode())
        os._exit(NOT_SET_UP)
    os.close(status)


def drop(uid: int | None) -> None:
    os.setsid()
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # short of memory the system ends this one first
    except OSError:
        pass
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o077)


def run(header: dict[str, Any]) -> None:
    """Run the program as `__main__`; its end is this process's end."""
    name = header["program"]
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = name
    sys.modules["__main__"] = module
    sys.argv = [name, *header["arguments"]]
    sys.path[:] = [header["box"], *header["paths"], *sys.path[1:]]
    sys.excepthook = show
    if "random" in header["source"]:
        import random

        random.seed(0)
    exec(compile(header["source"], name, "exec"), module.__dict__)


def show(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """The traceback from the program's first line on, without this file's."""
    import traceback

    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


if __name__ == "__main__":
    main()
