"""How is one sandboxed program started, fed, watched and ended?

    await watch(launch, script, limits) -> RunReport

    start -> the runner says `ready` -> header and stdin -> it ends | too long | too much output
          -> everything killed -> RunReport

`launch` says what to start; `bubblewrap.py` and `unsafe.py` make one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.envs.sandbox.contract import Ending, RunReport, SandboxLimits, Script
from evolute.types import SandboxError

RUNNER = Path(__file__).with_name("runner.py")
PROGRAM = "program.py"
SETUP_S = 20.0  # from start to `ready`
END_S = 5.0  # from the kill to the end of all processes
MIB = 2**20


@dataclass(slots=True)
class Launch:
    """A command whose last argument will be the number of the status pipe."""

    command: list[str]
    box: str  # the working directory, as the program sees it
    uid: int | None = None  # whom the runner becomes
    own_processes: int = 0  # of the sandbox itself, that count against max_processes
    paths: tuple[str, ...] = ()  # of packages
    environment: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()  # to pass on
    kill: Callable[[int], None] | None = None  # of the command's pid; ends what it started


async def watch(launch: Launch, script: Script, limits: SandboxLimits) -> RunReport:
    """Raises SandboxError when the program could not be started."""
    run = _Run(launch, script, limits)
    try:
        await run.start()
        return await run.finish()
    finally:
        await run.close()


# -- internals ---------------------------------------------------------------


class _Stream:
    """Keeps the first bytes of a pipe, and reads on so that nobody blocks."""

    def __init__(self, reader: asyncio.StreamReader, most: int, is_over: asyncio.Event) -> None:
        self.data, self._most = bytearray(), most
        self._is_over = is_over
        self.task = asyncio.ensure_future(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while part := await reader.read(2**16):
            room = self._most - len(self.data)
            self.data += part[:room]
            if len(part) > room:
                self._is_over.set()

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")


class _Run:
    def __init__(self, launch: Launch, script: Script, limits: SandboxLimits) -> None:
        self._launch, self._script, self._limits = launch, script, limits
        self._is_over = asyncio.Event()
        self._status = asyncio.StreamReader()
        self._status_pipe: asyncio.BaseTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._streams: list[_Stream] = []
        self._handle = -1  # of the command's process: signals reach no other
        self._has_ended = False

    async def start(self) -> None:
        """Until the runner is ready to hear what to run."""
        await self._spawn()
        try:
            said = await asyncio.wait_for(self._status.readline(), SETUP_S)
        except TimeoutError:
            raise SandboxError(f"the sandbox was not ready after {SETUP_S:g} s.") from None
        if said != b"ready\n":
            await self._drain()
            why = self._streams[1].text.strip() or "it ended without a word"
            raise SandboxError(f"the sandbox could not be started: {why}")

    async def finish(self) -> RunReport:
        """Run the program to its end, or to the end of our patience."""
        began, kills = time.monotonic(), oom_kills()
        self._tell()
        rest = asyncio.ensure_future(self._status.read())
        over = asyncio.ensure_future(self._is_over.wait())
        try:
            await asyncio.wait(
                {rest, over}, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            stopped = None
            if not rest.done():
                stopped = Ending.OUTPUT if self._is_over.is_set() else Ending.TIMEOUT
                self._kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(rest), END_S)
            await self._drain()
            seconds = time.monotonic() - began
            self._has_ended = rest.done()
            said = rest.result().decode(errors="replace") if rest.done() else ""
        finally:
            for task in (rest, over):
                task.cancel()
        if self._is_over.is_set():
            stopped = Ending.OUTPUT
        return self._report(stopped, said, seconds, oom_kills() > kills)

    async def close(self) -> None:
        """Whatever happened: nothing of it runs on."""
        if self._process is not None:
            assert self._process.stdin is not None
            drop(self._process.stdin)
            if not self._has_ended:
                self._kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
            await closed(self._process.stdin)
            self._kill_command()
            os.close(self._handle)
        for stream in self._streams:
            stream.task.cancel()
        if self._status_pipe is not None:
            self._status_pipe.close()

    async def _spawn(self) -> None:
        ours, theirs = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._launch.command,
                str(theirs),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._launch.environment,
                cwd="/",
                pass_fds=(theirs, *self._launch.descriptors),
                start_new_session=True,
            )
        except OSError as error:
            os.close(ours)
            raise SandboxError(f"{self._launch.command[0]} cannot be started: {error}") from error
        finally:
            os.close(theirs)
        self._handle = os.pidfd_open(self._process.pid)
        for reader in (self._process.stdout, self._process.stderr):
            assert reader is not None
            self._streams.append(_Stream(reader, self._limits.max_output_bytes, self._is_over))
        self._status_pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._status), os.fdopen(ours, "rb")
        )

    def _tell(self) -> None:
        header = marshal.dumps(header_of(self._launch, self._script, self._limits))
        assert self._process is not None and self._process.stdin is not None
        stdin = self._process.stdin
        stdin.write(f"{len(header):016x}".encode() + header)
        stdin.write(self._script.stdin.encode("utf-8", errors="surrogatepass"))
        stdin.close()

    def _kill(self) -> None:
        assert self._process is not None
        if self._launch.kill is None:
            self._kill_command()
        else:
            self._launch.kill(self._process.pid)

    def _kill_command(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def _drain(self) -> None:
        """Read what is still in the pipes; a process that got away may hold them open."""
        tasks = [stream.task for stream in self._streams]
        await asyncio.wait(tasks, timeout=1.0)

    def _report(
        self, stopped: Ending | None, said: str, seconds: float, short_of_memory: bool
    ) -> RunReport:
        out, err = (stream.text for stream in self._streams)
        word, number, cpu = _last_words(said)
        if stopped is not None:
            return RunReport(stopped, out, err, seconds)
        if word == "exit" and number is not None:
            last = err.rstrip().rpartition("\n")[2]
            if number == 1 and last.startswith("MemoryError"):
                return RunReport(Ending.MEMORY, out, err, seconds)
            return RunReport(Ending.EXITED, out, err, seconds, exit_code=number)
        ending = Ending.SIGNAL
        if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu >= self._cpu):
            ending = Ending.TIMEOUT
        elif number in (None, signal.SIGKILL) and short_of_memory:
            ending = Ending.MEMORY
        return RunReport(ending, out, err, seconds, signal=number or signal.SIGKILL)

    @property
    def _cpu(self) -> int:
        return math.ceil(self._limits.cpu_seconds)


def drop(stdin: asyncio.StreamWriter) -> None:
    """Close a pipe with all that nobody has read; `close` alone waits for a reader."""
    if stdin.transport.get_write_buffer_size():
        stdin.transport.abort()
    else:  # a transport that is closed already cannot abort
        stdin.close()


async def closed(stdin: asyncio.StreamWriter) -> None:
    """Until a pipe that was told to close has done so."""
    with contextlib.suppress(TimeoutError, OSError):
        await asyncio.wait_for(stdin.wait_closed(), END_S)


def header_of(launch: Launch, script: Script, limits: SandboxLimits) -> dict[str, Any]:
    """What the runner is told."""
    return {
        "uid": launch.uid,
        "box": launch.box,
        "program": PROGRAM,
        "source": script.source,
        "arguments": list(script.arguments),
        "paths": list(launch.paths),
        "files": {PROGRAM: script.source.encode("utf-8", errors="surrogatepass")}
        | {name: bytes(data) for name, data in script.files.items()},
        "limits": rlimits(limits, launch.own_processes),
    }


def rlimits(limits: SandboxLimits, own_processes: int = 0) -> list[tuple[str, int, int]]:
    """Names of the `resource` module, soft and hard limits."""
    cpu, size = math.ceil(limits.cpu_seconds), int(limits.disk_mb * MIB)
    processes = limits.max_processes + own_processes
    equal = {
        "RLIMIT_AS": int(limits.memory_mb * MIB),
        "RLIMIT_FSIZE": size,
        "RLIMIT_NPROC": processes,
        "RLIMIT_NOFILE": limits.max_open_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
    }
    return [("RLIMIT_CPU", cpu, cpu + 1), *((name, n, n) for name, n in equal.items())]


def oom_kills() -> int:
    """How many processes the system has ended for want of memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0


def _last_words(said: str) -> tuple[str, int | None, float]:
    """The runner's first line after `ready`: how the program ended, a number, processor seconds.

    Raises SandboxError for one that says the sandbox broke; a line that the runner did not write
    (another user's runner shares its pipe's owner with the program) says nothing.
    """
    word, _, rest = said.partition("\n")[0].partition(" ")
    if word == "error":
        raise SandboxError(f"the sandbox could not be set up: {rest}")
    number, _, cpu = rest.partition(" ")
    try:
        return word, int(number), float(cpu)
    except ValueError:
        return "", None, 0.0
