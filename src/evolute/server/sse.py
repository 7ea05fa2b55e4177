"""Streams of events to one client, and noticing that the client has left.

    event(value) -> bytes             "data: {...}" and an empty line
    EventStream(source, render)       the response; ends with [DONE], errors included
    Wire(...)                         the same for an API that names its events
    await while_connected(request, coroutine)    cancelled when the client goes
    Primed(stream)                    its first item is made early: early errors are HTTP errors

The client's departure arrives as a message on the connection, so one task waits for it while
another works; whichever ends first ends the other. Cancelling the work aborts the request.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from evolute.server.errors import envelope, status_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def event(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"data: {text}\n\n".encode()


def named_event(value: Mapping[str, Any]) -> bytes:
    """The same under the name that is its `type`."""
    return f"event: {value['type']}\n".encode() + event(value)


@dataclass(frozen=True, slots=True)
class Wire:
    """How one API writes its streams."""

    event: Callable[[Any], bytes] = event
    error: Callable[[Exception], Any] = envelope  # what is sent when a stream breaks
    end: bytes = DONE


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises ClientLeft (work cancelled) when the client goes first."""
    return await _until_gone(request.receive, work)


class Primed(Generic[T]):
    """A stream whose first item was already made; `aclose` ends the stream behind it."""

    def __init__(self, stream: AsyncIterator[T]) -> None:
        self._stream = stream
        self._first: list[T] = []

    async def prime(self) -> None:
        """Make the first item; raises what making it raises, after closing the stream."""
        try:
            self._first.append(await anext(self._stream))
        except StopAsyncIteration:
            pass
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return self._first.pop() if self._first else await anext(self._stream)

    async def aclose(self) -> None:
        if isinstance(self._stream, AsyncGenerator):
            await self._stream.aclose()


class EventStream(Response):
    """Sends what `render` makes of `source` as events, then the end; an error is one event."""

    media_type = "text/event-stream"

    def __init__(
        self,
        source: Primed[T],
        render: Callable[[AsyncIterator[T]], AsyncIterator[Any]],
        wire: Wire | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source: Primed[Any] = source
        self._render = render
        self._wire = wire or Wire()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _until_gone(receive, self._send(send))
        except ClientLeft:
            logger.debug("client left during a stream")
        finally:
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for chunk in self._render(self._source):
                await send(_body(self._wire.event(chunk), more=True))
        except Exception as error:
            if status_of(error) >= 500:
                logger.error("a stream failed", exc_info=error)
            await send(_body(self._wire.event(self._wire.error(error)), more=True))
        await send(_body(self._wire.end, more=False))


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
