"""HTTP as a load generator needs it: many streams at once, little work for each piece.

    connections = Connections("http://127.0.0.1:8000")
    async for received_s, payload in connections.events("/v1/completions", body, headers)
    status, text = await connections.fetch("GET", "/v1/models")

Each payload is what stands after `data:`; all that came in one read have its moment. A connection
that ended well is used again. Written by hand because a general client costs several times as much
for a token (`evolute bench generator` measures it), and the server under test pays for that.
No redirects, no compression, no proxies, HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from evolute.types import ConfigError

READ_BYTES = 1 << 16
MAX_HEAD_BYTES = 1 << 16
MAX_TOLD = 300  # characters of an error's text that are kept


class Failure(Exception):
    """A request that was not answered: `kind` for counting, the text for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Connections:
    """Connections to one server, opened as they are needed and kept for the next request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url {url!r} is no address; write http://HOST:PORT.")
        self._host, self._netloc = parts.hostname, parts.netloc.rpartition("@")[2]
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        try:
            self._port = parts.port or (443 if self._ssl else 80)
        except ValueError as error:
            raise ConfigError(f"--url {url!r}: {error}.") from None
        self._base = parts.path.rstrip("/")
        self._idle: list[_Connection] = []

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._host, self._port

    async def events(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[tuple[float, bytes], None]:
        """Raises Failure for every way in which this can go wrong."""
        lines = bytearray()
        async with self._answer("POST", path, body, headers) as answer:
            if answer.status != 200:
                text = await answer.text()
                raise Failure(f"http_{answer.status}", text[:MAX_TOLD])
            async for received_s, piece in answer.pieces():
                lines += piece
                *whole, rest = lines.split(b"\n")
                lines = bytearray(rest)
                for line in whole:
                    if line.startswith(b"data:"):
                        yield received_s, bytes(line[5:]).strip()

    async def fetch(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and whole text. Raises Failure when there is no answer."""
        async with self._answer(method, path, body, headers or {}) as answer:
            return answer.status, await answer.text()

    async def close(self) -> None:
        for connection in self._idle:
            connection.writer.close()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        self._idle.clear()

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[_Answer]:
        request = self._request(method, path, body, headers)
        connection = None
        try:
            connection, head = await self._send(request)
            answer = _Answer(connection.reader, head)
            yield answer
            if answer.is_finished and not answer.is_closing:
                self._idle.append(connection)
                connection = None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Failure("connection", f"{type(error).__name__}: {error}") from None
        except ValueError as error:
            raise Failure("bad_answer", f"not HTTP: {error}") from None
        finally:
            if connection is not None:
                connection.writer.transport.abort()

    async def _send(self, request: bytes) -> tuple[_Connection, bytes]:
        """The connection that took the request, and the answer's head. A kept connection may have
        been closed by the server meanwhile: then one new one is tried."""
        while self._idle:
            kept = self._idle.pop()
            if kept.reader.at_eof():
                kept.writer.transport.abort()
                continue
            try:
                return kept, await kept.exchange(request)
            except (OSError, asyncio.IncompleteReadError) as error:
                kept.writer.transport.abort()
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
            except BaseException:
                kept.writer.transport.abort()
                raise
        fresh = _Connection(
            *await asyncio.open_connection(
                self._host, self._port, ssl=self._ssl, limit=MAX_HEAD_BYTES
            )
        )
        try:
            return fresh, await fresh.exchange(request)
        except BaseException:
            fresh.writer.transport.abort()
            raise

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {self._base}{path} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, request: bytes) -> bytes:
        self.writer.write(request)
        await self.writer.drain()
        return await self.reader.readuntil(b"\r\n\r\n")


class _Answer:
    """One response whose head has come."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = [*first.split(" ", 2), ""]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"the answer begins with {first[:40]!r}")
        headers = {k.strip().lower(): v.strip() for k, _, v in (i.partition(":") for i in lines)}
        self.status, self._reader = int(status), reader
        self.is_closing = "close" in headers.get("connection", "").lower()
        self.is_closing |= version == "HTTP/1.0"
        self.is_finished = False
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._chunks = _Chunks() if chunked else None
        self._left = None if chunked or length is None else int(length)
        if self._left is None and not chunked:
            self.is_closing = True  # the body ends with the connection

    async def text(self) -> str:
        return b"".join([piece async for _, piece in self.pieces()]).decode(errors="replace")

    async def pieces(self) -> AsyncIterator[tuple[float, bytes]]:
        """Parts of the body as the network brings them, with the moment they were read."""
        while self._left != 0:
            data = await self._reader.read(READ_BYTES if self._left is None else self._left)
            now = time.perf_counter()
            if not data:
                self._end_of_connection()
                return
            if self._left is not None:
                self._left -= len(data)
            elif self._chunks is not None:
                data = self._chunks.feed(data)
            if data:
                yield now, data
            if self._chunks is not None and self._chunks.is_done:
                break
        self.is_finished = True

    def _end_of_connection(self) -> None:
        if self._chunks is not None or self._left is not None:
            raise Failure("connection", "the server closed the connection inside the answer")
        self.is_finished = True


@dataclass(slots=True)
class _Chunks:
    """Takes `Transfer-Encoding: chunked` apart, whatever pieces it comes in."""

    buffer: bytearray = field(default_factory=bytearray)
    left: int = 0  # bytes of the current chunk still to come, its line end included
    is_last: bool = False
    is_done: bool = False

    def feed(self, data: bytes) -> bytes:
        self.buffer += data
        payload = bytearray()
        while not self.is_done and self.buffer:
            if self.left:
                taken = min(self.left, len(self.buffer))
                payload += self.buffer[: max(min(taken, self.left - 2), 0)]
                self.left -= taken
                del self.buffer[:taken]
            elif not self._next():
                break
        return bytes(payload)

    def _next(self) -> bool:
        """Read one line: a chunk's size, or what follows the last one. False: not all is here."""
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        if self.is_last:
            self.is_done = not line  # a trailer field is passed over
        else:
            size = int(line.partition(b";")[0], 16)
            self.is_last = size == 0
            self.left = size + 2 if size else 0
        return True
