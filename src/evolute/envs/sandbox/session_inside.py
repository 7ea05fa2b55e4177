"""What runs first in a sandbox that stays open: told one request after another, it answers each.

Uses the standard library alone and is started as a script, as the first process of its sandbox,
so that nothing inside can end it and everything inside ends with it. Protocol: it writes `ready`
to the status pipe; a request on stdin is a length (16 hexadecimal digits) and a marshalled dict;
an answer on the status pipe is a length and fields, each 8 bytes of length and its bytes: the
request's number, a word, then what the word says (`session.py` reads it; a program inside cannot
write there).

    open          who programs run as, their limits, the folder
    run           one program: its end, its output, where its shell ended
    read, write, remove, list, collect, parse      of files, in a child with the program's rights
"""

from __future__ import annotations

import errno
import marshal
import os
import resource
import select
import signal
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module typing takes longer to load than all the rest
    from collections.abc import Callable, Sequence
    from typing import Any

LENGTH = 16
FILE_S = 20.0  # for one file operation
FLOOD = 32 * 2**20  # bytes of a stream that end a program
DRAIN_S = 0.2  # to read what an ended program left in its pipes
FOLDER_REPORT = 3  # descriptor on which a shell tells where it ended
MAX_ENTRIES = 20_000
AST_ALONE = 0x400  # of compile: no code is made
UNSEEN = ("__pycache__", ".git")


def main() -> None:
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    write_all(status, b"ready\n")
    session: dict[str, Any] = {}
    while (request := read_request()) is not None:
        if request["do"] == "open":
            session = request
            if request["uid"] is None:
                hide()
        try:
            fields = DO[request["do"]](session, request)
        except OSError as error:
            fields = ["error", f"{type(error).__name__}: {error}"]
        answer(status, [str(request["number"]), *fields])


def answer(status: int, fields: Sequence[str | bytes]) -> None:
    parts = [f.encode("utf-8", "surrogateescape") if isinstance(f, str) else f for f in fields]
    body = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    write_all(status, f"{len(body):0{LENGTH}x}".encode() + body)


def read_request() -> dict[str, Any] | None:
    length = read_exactly(LENGTH)
    data = None if length is None else read_exactly(int(length, 16))
    return None if data is None else marshal.loads(data)


def read_exactly(size: int) -> bytes | None:
    parts = []
    while size > 0:
        part = os.read(0, min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def hide() -> None:
    """Where programs are the same user as this one: they may not look into it."""
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


# -- programs ----------------------------------------------------------------


def open_folder(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    def operation() -> list[str | bytes]:
        os.makedirs(request["folder"], exist_ok=True)
        return write_all_files(session, request["files"])

    return in_child(session, operation)


def run(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    """`done`, what ended it, a number, processor seconds, folder, then for each stream: bytes in
    all, its first and its last ones."""
    into, out, err, told = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        target = out if request["merges"] else err
        begin_program(session, request, (into[0], out[1], target[1], told[1]))
    for descriptor in (into[0], out[1], err[1], told[1]):
        os.close(descriptor)
    streams = {out[0]: Kept(request["most"]), err[0]: Kept(request["most"]), told[0]: Kept(8192)}
    code, cpu = follow(child, streams, (into[1], request["stdin"]), request["seconds"])
    end_all(session)
    read_rest(streams, DRAIN_S)
    for descriptor in streams:
        os.close(descriptor)
    word, number = how(code, streams)
    head: list[str | bytes] = ["done", word, str(number), f"{cpu:.3f}", streams[told[0]].head]
    return head + streams[out[0]].fields() + streams[err[0]].fields()


def how(code: int | None, streams: dict[int, Kept]) -> tuple[str, int]:
    if code is None:
        is_flood = any(kept.total > FLOOD for kept in streams.values())
        return "output" if is_flood else "timeout", 0
    return ("signal", os.WTERMSIG(code)) if os.WIFSIGNALED(code) else ("exit", code >> 8)


def begin_program(
    session: dict[str, Any], request: dict[str, Any], descriptors: Sequence[int]
) -> None:
    """In the child; never returns."""
    try:
        high = [os.dup2(one, 100 + k) for k, one in enumerate(descriptors)]
        for k, one in enumerate(high):
            os.dup2(one, k)
        os.closerange(len(high), 200)
        drop(session)
        for name, soft, hard in request["limits"]:
            number = getattr(resource, name)
            most = resource.getrlimit(number)[1]
            hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
            resource.setrlimit(number, (min(soft, hard), hard))
        enter(request["folder"], session["folder"])
        arguments, environment = request["arguments"], {**os.environ, **request["environment"]}
        os.execvpe(arguments[0], arguments, environment)
    except BaseException as error:
        name, why = os.fsdecode(request["arguments"][0]), getattr(error, "strerror", error)
        os.write(2, f"{name} cannot be started: {why}\n".encode("utf-8", "replace"))
    finally:
        os._exit(127)


def enter(folder: str, home: str) -> None:
    """The folder, or the session's own where that is gone or shut: made anew, opened again."""
    try:
        os.chdir(folder)
        return
    except OSError:
        pass
    os.makedirs(home, exist_ok=True)
    try:
        os.chdir(home)
    except PermissionError:  # a program has taken its own rights away
        os.chmod(home, 0o700)
        os.chdir(home)


def drop(session: dict[str, Any]) -> None:
    os.setsid()
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # short of memory the system ends this one first
    except OSError:
        pass
    uid = session["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o077)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; programs count on them
        signal.signal(number, signal.SIG_DFL)


class Kept:
    """The first and the last bytes of a stream, half of `most` each."""

    def __init__(self, most: int) -> None:
        self.half = max(1, most // 2)
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, part: bytes) -> None:
        self.total += len(part)
        room = self.half - len(self.head)
        self.head += part[:room]
        self.tail = (self.tail + part[max(0, room) :])[-self.half :]

    def fields(self) -> list[str | bytes]:
        return [str(self.total), self.head, self.tail]


def follow(
    child: int, streams: dict[int, Kept], stdin: tuple[int, bytes], seconds: float
) -> tuple[int | None, float]:
    """Feed and read until the program itself ends (its children may hold the pipes), or time is
    up, or it floods us."""
    until, feeding, data = time.monotonic() + seconds, *stdin
    os.set_blocking(feeding, False)
    handle = os.pidfd_open(child)
    watched, fed = [*streams, handle], [feeding]
    try:
        while (left := until - time.monotonic()) > 0:
            if fed and not data:
                os.close(fed.pop())
            ready, writable, _ = select.select(watched, fed, [], left)
            if writable:
                data = feed(feeding, data)
            for one in ready:
                if one != handle and not read_some(one, streams[one]):
                    watched.remove(one)
                elif one != handle and streams[one].total > FLOOD:
                    return None, 0.0
            if handle in ready:
                _, code, usage = os.wait4(child, 0)
                return code, usage.ru_utime + usage.ru_stime
    finally:
        for descriptor in (handle, *fed):
            os.close(descriptor)
    return None, 0.0


def feed(descriptor: int, data: bytes) -> bytes:
    """What is still to be written; nothing when nobody reads."""
    try:
        return data[os.write(descriptor, data[:65536]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""


def read_some(descriptor: int, kept: Kept) -> bool:
    part = os.read(descriptor, 65536)
    kept.add(part)
    return bool(part)


def read_rest(streams: dict[int, Kept], seconds: float) -> None:
    watched, until = list(streams), time.monotonic() + seconds
    while watched and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], left)
        watched = [o for o in watched if o not in ready or read_some(o, streams[o])]


def end_all(session: dict[str, Any]) -> None:
    """Nothing of a program outlives its call: one signal to all that its user runs here. Whoever
    loses a parent becomes a child of this process, so with no child left nobody is left."""
    assert os.getpid() == 1  # anywhere else this would end the processes of others
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
    if os.fork() == 0:
        try:
            if session["uid"] is not None:
                os.setresuid(session["uid"], session["uid"], session["uid"])
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


# -- files -------------------------------------------------------------------


def in_child(
    session: dict[str, Any], operation: Callable[[], list[str | bytes]]
) -> list[str | bytes]:
    """The operation's fields, with the rights and the disk limits of a program."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            drop(session)
            fields = operation()
        except FileNotFoundError as error:
            fields = ["missing", str(error.filename or error)]
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            fields = ["refused", name, f"{error.strerror}: {error.filename}"]
        except BaseException as error:
            fields = ["refused", "EINVAL", f"{type(error).__name__}: {error}"]
        parts = [f.encode("utf-8", "surrogateescape") if isinstance(f, str) else f for f in fields]
        try:
            write_all(writing, marshal.dumps(parts))
        finally:
            os._exit(0)
    os.close(writing)
    parts, until = [b"."], time.monotonic() + FILE_S
    while parts[-1] and (left := until - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            parts.append(os.read(reading, 2**20))
    os.close(reading)
    if parts[-1]:
        end_all(session)
        return ["refused", "ETIMEDOUT", f"not done within {FILE_S:g} s"]
    os.waitpid(child, 0)
    data = b"".join(parts[1:])
    return list(marshal.loads(data)) if data else ["refused", "EIO", "the operation was ended"]


def within(session: dict[str, Any], path: str) -> str:
    """The place that a path means, all links followed. Raises OSError outside the folder, and when
    the folder itself has become a link."""
    folder = session["folder"]
    real = os.path.realpath(os.path.join(folder, path))
    if real != folder and not real.startswith(folder + "/"):
        raise OSError(errno.EXDEV, "outside the folder", real)
    return real


def read_file(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    def operation() -> list[str | bytes]:
        real = within(session, request["path"])
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK)
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a folder", real)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.ENXIO, "no plain file", real)
        if about.st_size > request["most"]:
            return ["large", str(about.st_size)]
        with open(descriptor, "rb") as file:
            return ["ok", file.read(request["most"])]

    return in_child(session, operation)


def write_file(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    return in_child(session, lambda: write_all_files(session, request["files"]))


def write_all_files(session: dict[str, Any], files: dict[str, bytes]) -> list[str | bytes]:
    """Each as a whole or not at all: a full disk leaves what was there."""
    for path, data in files.items():
        real = within(session, path)
        if os.path.lexists(real) and not os.path.isfile(real):
            kind = errno.EISDIR if os.path.isdir(real) else errno.ENXIO
            raise OSError(kind, "no plain file", real)
        os.makedirs(os.path.dirname(real), exist_ok=True)
        new = f"{os.path.dirname(real)}/.writing-{os.getpid()}"
        try:
            with open(new, "wb") as file:
                file.write(data)
            if os.path.exists(real):
                os.chmod(new, stat.S_IMODE(os.stat(real).st_mode))
            os.replace(new, real)
        except OSError:
            if os.path.lexists(new):
                os.unlink(new)
            raise
    return ["ok"]


def remove_file(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    def operation() -> list[str | bytes]:
        os.unlink(within(session, request["path"]))
        return ["ok"]

    return in_child(session, operation)


def list_folder(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    """`ok`, then each entry's path below the folder that was asked for, `/` behind folders."""

    def operation() -> list[str | bytes]:
        top = within(session, request["path"])
        if not os.path.isdir(top):
            os.stat(top)
            return ["file"]
        found = walk(top, "", request["depth"], request["hidden"])
        return ["ok", *found[: request["most"]], *["..."] * (len(found) > request["most"])]

    return in_child(session, operation)


def walk(top: str, below: str, depth: int, hidden: bool) -> list[str]:
    found: list[str] = []
    for entry in sorted(os.scandir(os.path.join(top, below)), key=lambda entry: entry.name):
        if entry.name in UNSEEN or (entry.name.startswith(".") and not hidden):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        found.append(path + "/" * is_folder)
        if is_folder and depth > 1:
            found += walk(top, path, depth - 1, hidden)
        if len(found) > MAX_ENTRIES:
            raise OSError(errno.E2BIG, f"more than {MAX_ENTRIES} files", top)
    return found


def collect(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    """`ok`, then path and bytes of every plain file; links are left out, as are caches."""

    def operation() -> list[str | bytes]:
        fields: list[str | bytes] = ["ok"]
        left = request["most"]
        for path in walk(session["folder"], "", 64, True):
            place = os.path.join(session["folder"], path)
            if path.endswith("/") or not stat.S_ISREG(os.lstat(place).st_mode):
                continue
            if request["suffixes"] and not path.endswith(tuple(request["suffixes"])):
                continue
            left -= os.lstat(place).st_size
            if left < 0:
                return ["large", str(request["most"])]
            with open(place, "rb") as file:
                fields += [path, file.read()]
        return fields

    return in_child(session, operation)


def parse(session: dict[str, Any], request: dict[str, Any]) -> list[str | bytes]:
    def operation() -> list[str | bytes]:
        try:
            compile(request["source"], request["path"], "exec", AST_ALONE, dont_inherit=True)
        except SyntaxError as error:
            return ["syntax", f"line {error.lineno}: {error.msg}"]
        except (ValueError, RecursionError, MemoryError) as error:
            return ["syntax", f"{type(error).__name__}: {error}"]
        return ["ok"]

    return in_child(session, operation)


DO = {
    "open": open_folder,
    "run": run,
    "read": read_file,
    "write": write_file,
    "remove": remove_file,
    "list": list_folder,
    "collect": collect,
    "parse": parse,
}

if __name__ == "__main__":
    main()
