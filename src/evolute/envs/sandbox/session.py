"""How does an agent work in one sandbox for a whole episode?

    async with sandbox.open(limits, files) as session:
        await session.run(command) -> CommandReport      a program, or a line for a shell
        await session.read(path), write({path: bytes}), remove(path), entries(path), collect()

One sandbox stays open: its disks keep what programs wrote, while no process outlives the call that
started it. Paths lie below the session's folder; a link that leads out of it is refused, and
outside it a program finds what any sandbox shows: a read-only system, small memory disks, no
network. Files are touched inside, with the program's rights, never from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import marshal
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolute.envs.sandbox.contract import Ending, SandboxLimits
from evolute.envs.sandbox.watch import END_S, MIB, SETUP_S, Launch, closed, drop, rlimits
from evolute.types import ConfigError, SandboxError

INSIDE = Path(__file__).with_name("session_inside.py")
FOLDER = "/box/home"
SESSION_LIMITS = SandboxLimits(
    seconds=30.0, cpu_seconds=30.0, memory_mb=1024, max_processes=32, max_open_files=256, disk_mb=64
)
FILE_S = 25.0  # for one file operation, the sandbox's own limit and some more
THAW_S = 1.0  # after a machine stood still, an answer that is there is read before time is up
LENGTH = 16
SHELL = ("/bin/bash", "--noprofile", "--norc", "-c", "trap 'pwd -P >&3' EXIT\neval \"$1\"", "bash")


@dataclass(frozen=True, slots=True)
class Command:
    """A program. `folder` is where it starts; with `merges` its stderr goes where its stdout goes.
    `seconds` and `max_output_bytes` are its own limits, 0: the session's."""

    arguments: tuple[str, ...]
    stdin: bytes = b""
    folder: str = FOLDER
    environment: Mapping[str, str] = field(default_factory=dict)
    merges: bool = False
    seconds: float = 0.0
    max_output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CommandReport:
    """Invariant: `exit_code` is set exactly when `ending` is EXITED. `folder` is where a shell
    ended ("": it did not say). Of a long stream the first and last parts are kept: `num_bytes` is
    what it wrote in all; 32 MiB of one end the program."""

    ending: Ending
    stdout: str
    stderr: str
    seconds: float
    exit_code: int | None = None
    signal: int | None = None
    folder: str = ""
    num_bytes: int = 0

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0


class FileRefused(Exception):
    """A path that cannot be read or written: missing, outside, no plain file, too large, no
    space."""


def shell(text: str, folder: str = FOLDER, seconds: float = 0.0) -> Command:
    """A command line for bash, output merged; its report says in which folder it ended."""
    return Command((*SHELL, text), folder=folder, merges=True, seconds=seconds)


class Session:
    """One sandbox that stays open. One call at a time; further ones wait.

    A call that is cancelled runs on inside up to its limit, and the next one waits for it.
    SandboxError when the sandbox broke or was closed.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, launch: Launch, limits: SandboxLimits
    ) -> None:
        self._process, self._launch, self.limits = process, launch, limits
        self._handle = os.pidfd_open(process.pid)
        self._status = asyncio.StreamReader(limit=2**22)
        self._pipe: asyncio.BaseTransport | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[list[bytes]]] = {}
        self._numbers, self._free_at = itertools.count(), 0.0
        self._why = ""  # it cannot be used any more
        self._lock = asyncio.Lock()

    async def run(self, command: Command) -> CommandReport:
        """A program that misbehaves is data; SandboxError means that the sandbox broke."""
        limits = replace(self.limits, seconds=command.seconds or self.limits.seconds)
        arguments = [argument.encode("utf-8", "replace") for argument in command.arguments]
        if any(b"\0" in argument for argument in arguments):
            return CommandReport(Ending.EXITED, "", "an argument contains a NUL byte", 0.0, 126)
        request = {
            "do": "run",
            "arguments": arguments,
            "stdin": command.stdin,
            "folder": command.folder,
            "environment": dict(command.environment),
            "merges": command.merges,
            "seconds": limits.seconds,
            "most": command.max_output_bytes or limits.max_output_bytes,
            "limits": rlimits(limits, self._launch.own_processes),
        }
        began = time.monotonic()
        fields = await self._ask(request, limits.seconds)
        return _report(fields, time.monotonic() - began, limits)

    async def read(self, path: str, most: int = MIB) -> bytes:
        """Raises FileRefused, also for a file of more than `most` bytes."""
        request = {"do": "read", "path": path, "most": most}
        return _checked(await self._ask(request, FILE_S), path)[0]

    async def write(self, files: Mapping[str, bytes]) -> None:
        """Each file as a whole or not at all; folders are made. Raises FileRefused."""
        request = {"do": "write", "files": {path: bytes(data) for path, data in files.items()}}
        _checked(await self._ask(request, FILE_S), ", ".join(files))

    async def remove(self, path: str) -> None:
        """Raises FileRefused."""
        _checked(await self._ask({"do": "remove", "path": path}, FILE_S), path)

    async def parse(self, source: bytes, path: str) -> str:
        """Why a text is no Python, with its line; empty when it is. Inside, since a parser can be
        brought down."""
        request = {"do": "parse", "source": source, "path": path}
        fields = await self._ask(request, FILE_S)
        return "" if fields[0] == b"ok" else b" ".join(fields[1:]).decode("utf-8", "replace")

    async def entries(
        self, path: str = FOLDER, *, depth: int = 2, hidden: bool = False, most: int = 500
    ) -> list[str] | None:
        """Paths below a folder, `/` behind folders, "..." last when there are more than `most`.
        None for a file. Raises FileRefused."""
        request = {"do": "list", "path": path, "depth": depth, "hidden": hidden, "most": most}
        fields = await self._ask(request, FILE_S)
        if fields[0] == b"file":
            return None
        return [one.decode("utf-8", "replace") for one in _checked(fields, path)]

    async def collect(self, suffixes: Sequence[str] = (), most: int = 16 * MIB) -> dict[str, bytes]:
        """All plain files by path below the folder: no links, no caches. Raises FileRefused when
        they have more than `most` bytes."""
        request = {"do": "collect", "suffixes": list(suffixes), "most": most}
        fields = _checked(await self._ask(request, FILE_S), FOLDER)
        names = [one.decode("utf-8", "surrogateescape") for one in fields[::2]]
        return dict(zip(names, fields[1::2]))

    async def close(self) -> None:
        """Everything in it ends. Safe to call twice, and while a call runs."""
        self._why = self._why or "it was closed"
        if self._handle < 0:
            return
        handle, self._handle = self._handle, -1
        assert self._launch.kill is not None and self._process.stdin is not None
        drop(self._process.stdin)
        self._launch.kill(self._process.pid)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), END_S)
        await closed(self._process.stdin)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        if self._reading is not None:
            self._reading.cancel()
        if self._pipe is not None:
            self._pipe.close()
        self._fail()

    # -- internals ---------------------------------------------------------------

    async def _begin(self, status: int, files: Mapping[str, bytes]) -> None:
        loop = asyncio.get_running_loop()
        self._pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._status), os.fdopen(status, "rb")
        )
        try:
            said = await asyncio.wait_for(self._status.readline(), SETUP_S)
        except TimeoutError:
            raise SandboxError(f"the sandbox was not ready after {SETUP_S:g} s.") from None
        if said != b"ready\n":
            assert self._process.stderr is not None
            why = b""
            with contextlib.suppress(TimeoutError):
                why = await asyncio.wait_for(self._process.stderr.read(4096), 1.0)
            raise SandboxError(f"the sandbox could not be started: {why.decode(errors='replace')}")
        self._reading = asyncio.ensure_future(self._read())
        request = {"do": "open", "uid": self._launch.uid, "folder": FOLDER, "files": dict(files)}
        _checked(await self._ask(request, FILE_S), FOLDER)

    async def _ask(self, request: dict[str, Any], seconds: float) -> list[bytes]:
        async with self._lock:
            if self._why:
                raise SandboxError(f"the session cannot be used: {self._why}.")
            number, now = next(self._numbers), time.monotonic()
            data = marshal.dumps({**request, "number": number})
            answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
            self._answers[number] = answer
            self._free_at = max(self._free_at, now) + seconds + END_S
            stdin = self._process.stdin
            assert stdin is not None
            stdin.write(f"{len(data):0{LENGTH}x}".encode() + data)
            for patience in (self._free_at - now, THAW_S):
                await asyncio.wait((answer,), timeout=patience)
            if not answer.done():
                self._why = f"it gave no answer within {self._free_at - now:g} s"
                await self.close()
                raise SandboxError(f"the session cannot be used: {self._why}.")
            fields = answer.result()
            self._free_at = time.monotonic()
        if fields[0] == b"error":
            raise SandboxError(f"the sandbox broke: {fields[1].decode(errors='replace')}")
        return fields

    async def _read(self) -> None:
        try:
            while True:
                length = int(await self._status.readexactly(LENGTH), 16)
                number, *fields = _fields(await self._status.readexactly(length))
                answer = self._answers.pop(int(number), None)
                if answer is not None and not answer.done():
                    answer.set_result(fields)
        except (asyncio.IncompleteReadError, ValueError, ConnectionError):
            self._why = self._why or "the sandbox ended by itself"
        finally:
            self._fail()

    def _fail(self) -> None:
        answers, self._answers = list(self._answers.values()), {}
        for answer in answers:
            if not answer.done():
                answer.set_exception(SandboxError(f"the session cannot be used: {self._why}."))
                answer.exception()  # whoever waited may be gone


async def spawn(launch: Launch, limits: SandboxLimits, files: Mapping[str, bytes]) -> Session:
    """A session of a command whose last argument will be the number of the status pipe."""
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            str(theirs),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=launch.environment,
            cwd="/",
            pass_fds=(theirs, *launch.descriptors),
            start_new_session=True,
        )
    except OSError as error:
        os.close(ours)
        raise SandboxError(f"{launch.command[0]} cannot be started: {error}") from error
    finally:
        os.close(theirs)
    session = Session(process, launch, limits)
    try:
        await session._begin(ours, files)
    except FileRefused as error:
        await session.close()
        raise ConfigError(f"the files of a session do not fit: {error}; raise disk_mb.") from error
    except BaseException:
        await session.close()
        raise
    return session


# -- internals ---------------------------------------------------------------


def _fields(body: bytes) -> list[bytes]:
    fields: list[bytes] = []
    place = 0
    while place < len(body):
        size = int.from_bytes(body[place : place + 8], "big")
        fields.append(body[place + 8 : place + 8 + size])
        place += 8 + size
    return fields


def _checked(fields: list[bytes], path: str) -> list[bytes]:
    word, *rest = fields
    if word == b"ok":
        return rest
    said = b" ".join(rest).decode(errors="replace")
    if word == b"missing":
        raise FileRefused(f"{path} does not exist")
    if word == b"large":
        raise FileRefused(f"{path} is too large: {said} bytes")
    if said.startswith("EXDEV"):
        raise FileRefused(f"{path} lies outside {FOLDER}")
    if said.startswith("EISDIR"):
        raise FileRefused(f"{path} is a folder")
    raise FileRefused(f"{path}: {said.partition(' ')[2] or said}")


def _report(fields: list[bytes], seconds: float, limits: SandboxLimits) -> CommandReport:
    _, word, number, cpu, folder, *streams = fields
    (total, out), (total_err, err) = _stream(streams[:3]), _stream(streams[3:])
    place = folder.decode("utf-8", "replace").rstrip("\n")
    place = place if place.startswith("/") and "\n" not in place else ""
    done = CommandReport(
        Ending.TIMEOUT, out, err, seconds, folder=place, num_bytes=total + total_err
    )
    code = int(number)
    if word in (b"timeout", b"output"):
        return replace(done, ending=Ending(word.decode()))
    if word == b"exit":
        if code == 1 and (err or out).rstrip().endswith("MemoryError"):
            return replace(done, ending=Ending.MEMORY)
        return replace(done, ending=Ending.EXITED, exit_code=code)
    ran_out = code == signal.SIGXCPU or float(cpu) >= math.ceil(limits.cpu_seconds)
    return replace(done, ending=Ending.TIMEOUT if ran_out else Ending.SIGNAL, signal=code)


def _stream(fields: Sequence[bytes]) -> tuple[int, str]:
    total, head, tail = int(fields[0]), fields[1], fields[2]
    hidden = total - len(head) - len(tail)
    middle = f"\n[... {hidden} bytes left out ...]\n".encode() if hidden > 0 else b""
    return total, (head + middle + tail).decode("utf-8", "replace")
