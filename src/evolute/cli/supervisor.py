"""Who answers while the serving process is dead? Its parent, which holds the port.

    supervise(listener, command, on_ready) -> exit code      until the child ends well, or SIGTERM
    Worker.of(text)                                          the child's end: `--worker TEXT`

Both processes have the listening socket. While the child is well the parent accepts nothing, so a
request takes no detour. Until the child is ready, and from its death until it is ready again, the
parent answers 503 with Retry-After and the reason. Requests in progress die with the child: their
connections break. A socket pair binds the two: over it the child says that it is ready, and its
end tells the child that the parent is gone. Nothing heavy is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolute.types.ports import url_of

logger = logging.getLogger(__name__)

READY = b"ready\n"
MAX_FAILED = 5  # starts in a row that did not get ready
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # before the next start, doubled with each that failed
HEAD_S, BODY_S = 5.0, 2.0  # for a client to say what it wants, and to take its answer
MAX_HEAD_BYTES = 1 << 16
OPEN_FILES = 8192
ACCEPT_AGAIN_S = 1.0


def supervise(
    listener: socket.socket, command: Sequence[str], on_ready: Callable[[str], None]
) -> int:
    """Calls `on_ready(url)` when requests are served for the first time. Returns the last child's
    exit code: one that never got ready at all is not started again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with listener, tempfile.TemporaryDirectory(prefix="evolute-serve-") as directory:
        return asyncio.run(_Supervisor(listener, command, on_ready, directory).run())


@dataclass(frozen=True, slots=True)
class Worker:
    """What a child was given by its parent."""

    listener: socket.socket
    lifeline: socket.socket
    restarts: int
    directory: Path  # of the journal

    @classmethod
    def of(cls, text: str) -> Worker:
        listener, lifeline, restarts, directory = text.split(",", 3)
        served, life = (socket.socket(fileno=int(fd)) for fd in (listener, lifeline))
        return cls(served, life, int(restarts), Path(directory))

    def watch(self) -> None:
        """End this process as SIGTERM would when the parent has ended."""

        def wait() -> None:
            with contextlib.suppress(OSError):
                self.lifeline.recv(1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, name="evolute-lifeline", daemon=True).start()

    def is_ready(self) -> None:
        self.lifeline.sendall(READY)


# -- internals ---------------------------------------------------------------


class _Supervisor:
    def __init__(
        self,
        listener: socket.socket,
        command: Sequence[str],
        on_ready: Callable[[str], None],
        directory: str,
    ) -> None:
        self.listener, self.command, self.on_ready = listener, list(command), on_ready
        self.directory = directory
        self.restarts, self.failed = 0, 0
        self.start_s = 1.0  # what the last start took
        self.is_stopping = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.gate: socket.socket | None = None  # the parent's own end of the port
        self.answers: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            while True:
                code, was_ready = await self._life()
                self.failed = 0 if was_ready else self.failed + 1
                is_hopeless = not self.restarts or self.failed >= MAX_FAILED
                if self.is_stopping.is_set() or not code or (not was_ready and is_hopeless):
                    return code if code >= 0 else 128 - code
                logger.error("the serving process ended (%d); it is started again", code)
                self.restarts += 1
                self._open_gate()
                await self._pause()
                if self.is_stopping.is_set():
                    return 0
        finally:
            self._close_gate()

    async def _life(self) -> tuple[int, bool]:
        """One child from its start to its end: its exit code, and whether it ever served."""
        self._open_gate()
        ours, theirs = socket.socketpair()
        fds = (self.listener.fileno(), theirs.fileno())
        worker = f"{fds[0]},{fds[1]},{self.restarts},{self.directory}"
        began = time.monotonic()
        with ours:
            with theirs:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    *("--worker", worker),
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    process_group=0,  # Ctrl-C is for the parent, which passes it on
                )
            was_ready = await self._is_ready(ours)
            if was_ready:
                self.start_s = time.monotonic() - began
                self._close_gate()
                self._tell()
            return await self.process.wait(), was_ready

    async def _is_ready(self, ours: socket.socket) -> bool:
        """False when the child ends before it says so."""
        ours.setblocking(False)
        said = b""
        while len(said) < len(READY):
            piece = await asyncio.get_running_loop().sock_recv(ours, len(READY) - len(said))
            if not piece:
                return False
            said += piece
        return said == READY

    def _tell(self) -> None:
        if self.restarts:
            logger.warning("serving again after %d restarts", self.restarts)
        else:
            self.on_ready(url_of(self.listener))

    def _pass_on(self, number: int) -> None:
        self.is_stopping.set()
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def _pause(self) -> None:
        """Nothing after a child that served; longer and longer after starts that failed."""
        if self.failed:
            pause_s = min(FIRST_PAUSE_S * 2**self.failed, MAX_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.is_stopping.wait(), pause_s)

    # -- while nobody serves ------------------------------------------------------

    def _open_gate(self) -> None:
        if self.gate is None:
            self.gate = self.listener.dup()
            self.gate.setblocking(False)
            asyncio.get_running_loop().add_reader(self.gate, self._accept)

    def _accept(self) -> None:
        """Whoever is accepted has its answer begun before the gate can close: asyncio's own server
        forgets those that it accepted and had not begun, and their clients wait for ever."""
        assert self.gate is not None
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self.gate.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no file descriptor is left
            logger.error("a connection cannot be accepted (%s)", error)
            loop.remove_reader(self.gate)
            loop.call_later(ACCEPT_AGAIN_S, self._accept_again, self.gate)
            return
        connection.setblocking(False)
        answer = loop.create_task(_answer(self, connection))
        self.answers.add(answer)
        answer.add_done_callback(self.answers.discard)

    def _accept_again(self, gate: socket.socket) -> None:
        if gate is self.gate:
            asyncio.get_running_loop().add_reader(gate, self._accept)

    def _close_gate(self) -> None:
        if self.gate is not None:
            asyncio.get_running_loop().remove_reader(self.gate)
            self.gate.close()
            self.gate = None

    @property
    def state(self) -> tuple[str, str]:
        """A word, and a sentence for people."""
        if self.is_stopping.is_set():
            return "draining", "the server is shutting down; send this to another."
        if not self.restarts:
            return "starting", "the model is being loaded."
        times = f"restart {self.restarts}"
        return "restarting", f"the serving process died and is started again ({times})."


async def _answer(supervisor: _Supervisor, connection: socket.socket) -> None:
    """503, then whatever the client still sends is read: a reset would cost it the answer."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEAD_BYTES)
    try:
        head = b""
        with contextlib.suppress(asyncio.LimitOverrunError):
            async with asyncio.timeout(HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
        writer.write(_refusal(head, *supervisor.state, math.ceil(supervisor.start_s)))
        async with asyncio.timeout(BODY_S):
            await writer.drain()
            writer.write_eof()
            while await reader.read(MAX_HEAD_BYTES):
                pass
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        pass
    finally:
        writer.close()


def _refusal(head: bytes, state: str, reason: str, wait_s: int) -> bytes:
    """In the shape of the path that was asked for."""
    method, path, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
    error = {"type": "server_error", "message": reason, "param": None, "code": state}
    body: dict[str, object] = {"error": error}
    if path.startswith(b"/health"):
        body = {"status": state, "reason": reason}
    elif path.startswith(b"/v1/messages"):
        body = {"type": "error", "error": {"type": "overloaded_error", "message": reason}}
    content = json.dumps(body).encode()
    lines = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Retry-After: {max(wait_s, 1)}\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return lines.encode() + (b"" if method == b"HEAD" else content)
