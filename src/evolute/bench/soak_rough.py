"""Clients that read slowly, or say half of what they have to and fall silent.

    rough = RoughClients(host, port, dice)
    await rough.read_slowly(path, body, silence) -> the whole answer, with its head
    await rough.say_half(path, body)        the connection stays open, up to MAX_HALF of them
    await rough.close()

Bytes over sockets of their own: a general client would not do this.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

MAX_HALF = 40
BUFFER_BYTES = 4096  # of a slow reader's socket: what the server cannot put there it must hold
SLOW_READS = 30  # then it makes up for them
Silence = Callable[[], AbstractAsyncContextManager[None]]
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RoughClients:
    """`num_ended` counts the half-open connections that the server closed by itself."""

    def __init__(self, host: str, port: int, dice: random.Random) -> None:
        self._host, self._port, self._dice = host, port, dice
        self._half: deque[Pair] = deque()
        self.num_ended = 0

    async def read_slowly(self, path: str, body: bytes, silence: Silence) -> bytes:
        """Raises OSError when the server hangs up, and what `silence` does around a read that
        lasts too long."""
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        own.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(own, (self._host, self._port))
            reader, writer = await asyncio.open_connection(sock=own, limit=BUFFER_BYTES)
        except BaseException:
            own.close()
            raise
        try:
            writer.write(_request(path, body))
            got = bytearray()
            for count in range(10**9):
                most = self._dice.randint(1, 512) if count < SLOW_READS else 65536
                async with silence():
                    piece = await reader.read(most)
                if not piece:
                    break
                got += piece
                if count < SLOW_READS:
                    await asyncio.sleep(self._dice.expovariate(50))
            return bytes(got)
        finally:
            writer.transport.abort()

    async def say_half(self, path: str, body: bytes) -> None:
        """Of a head, or of a body, or nothing at all."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        whole = _request(path, body)
        writer.write(whole[: self._dice.randrange(len(whole))])
        self._half.append((reader, writer))
        if len(self._half) > MAX_HALF:
            self._end(*self._half.popleft())

    async def close(self) -> None:
        while self._half:
            self._end(*self._half.popleft())

    def _end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_ended += reader.at_eof() or reader.exception() is not None
        writer.transport.abort()


def _request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
