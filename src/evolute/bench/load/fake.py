"""A server without a model: answers by a script, at once or slowly, well or badly.

    async with FakeServer(lambda body: Reply(num_tokens=8)) as server: server.url
    python -m evolute.bench.load.fake            in a process of its own; prints its address

The generator is measured against it, and the accounting is tested against its known delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TOKEN = b'data: {"choices":[{"index":0,"text":" a","finish_reason":null}]}\n\n'
CHAT_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}\n\n'
STOP_S = 5.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered. `breaks_after` closes the connection after so many tokens."""

    num_tokens: int = 8
    first_s: float = 0.0  # until the first token
    gap_s: float = 0.0  # between tokens
    status: int = 200
    error: str = ""  # with a status: the body; else an event in place of the second token
    has_usage: bool = True
    cached_tokens: int = 0
    breaks_after: int | None = None
    is_cut_short: bool = False  # the stream ends in good order, but without reason and [DONE]


class FakeServer:
    """Bodies it was sent are in `bodies`, with their headers under "headers"."""

    def __init__(self, script: Callable[[dict[str, Any]], Reply]) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._over = asyncio.Event()
        self.bodies: list[dict[str, Any]] = []
        self.running = self.most_running = 0
        self.connections = 0

    async def __aenter__(self) -> FakeServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._over.set()
        for writer in list(self._open):
            writer.transport.abort()
        async with asyncio.timeout(STOP_S):
            while self._open:
                await asyncio.sleep(0.001)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None, "entered"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        try:
            await self._serve_each(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _serve_each(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if first.startswith("GET"):
                _whole(writer, 200, b'{"data":[{"id":"fake"}]}')
            else:
                await self._answer(writer, "/chat/" in first, json.loads(body), headers)
            await writer.drain()

    async def _answer(
        self,
        writer: asyncio.StreamWriter,
        is_chat: bool,
        body: dict[str, Any],
        headers: dict[str, str],
    ) -> None:
        self.bodies.append(body | {"headers": headers})
        reply = self._script(body)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if reply.status != 200:
                _whole(writer, reply.status, json.dumps({"error": reply.error}).encode())
            elif body.get("stream"):
                await self._stream(writer, reply, body, is_chat)
            else:
                await self._pause(reply.first_s + reply.gap_s * reply.num_tokens)
                value = {"choices": [{"text": "a", "finish_reason": "length"}]}
                _whole(writer, 200, json.dumps(value | {"usage": _usage(reply, body)}).encode())
        finally:
            self.running -= 1

    async def _stream(
        self, writer: asyncio.StreamWriter, reply: Reply, body: dict[str, Any], is_chat: bool
    ) -> None:
        writer.write(HEAD)
        if is_chat:
            _chunk(writer, ROLE)
        for i in range(reply.num_tokens):
            await self._pause(reply.gap_s if i else reply.first_s)
            if i == reply.breaks_after:
                writer.close()
                raise ConnectionResetError("by the script")
            if i == 1 and reply.error:
                _chunk(writer, _event({"error": {"message": reply.error}}))
                break
            _chunk(writer, CHAT_TOKEN if is_chat else TOKEN)
            await writer.drain()
        if not reply.is_cut_short:
            end: dict[str, Any] = {"index": 0, "finish_reason": "length"}
            end["delta" if is_chat else "text"] = {} if is_chat else ""
            _chunk(writer, _event({"choices": [end]}))
            if reply.has_usage:
                _chunk(writer, _event({"choices": [], "usage": _usage(reply, body)}))
            _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    async def _pause(self, seconds: float) -> None:
        """Raises OSError when the server is closed meanwhile."""
        if not seconds:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
            raise ConnectionResetError("the server is closed")


# -- internals ---------------------------------------------------------------


def _usage(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt", ())
    return {
        "prompt_tokens": len(prompt.split()) if isinstance(prompt, str) else len(prompt),
        "completion_tokens": reply.num_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _whole(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def _main() -> None:
    async with FakeServer(lambda body: Reply(num_tokens=int(body["max_tokens"]))) as server:
        print(f"ready {server.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
