"""Connections that cost us something and bring nothing: too many, or silent ones.

    connection_class(max_connections) -> a protocol class for uvicorn
    make_room(max_connections) -> how many the operating system lets us have

A connection that has no request in progress and has not completed the next one's head within
HEAD_S is closed, so half-open connections and heads that trickle in do not pile up. One more than
`max_connections` is answered 503 and closed before anything is read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from evolute.server.errors import envelope
from evolute.telemetry import counter
from evolute.types import OutOfCapacity

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 4096
SPARE_FILES = 256  # for models, logs and what libraries open
HEAD_S = 20.0
CLOSED = counter("server/connections_closed", "connections closed by the server", ("reason",))


class Connection(H11Protocol):
    """uvicorn's own, with a limit on how many there are and how long one may be silent."""

    max_connections = MAX_CONNECTIONS
    head_s = HEAD_S
    _watch: asyncio.TimerHandle | None = None
    _quiet_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            CLOSED.labels("too_many").inc()
            transport.write(_refusal(self.max_connections))
            transport.close()
            return
        self._quiet_since = self.loop.time()
        self._watch = self.loop.call_later(self.head_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def _look(self) -> None:
        """Close a connection that was without a request at two looks, HEAD_S apart."""
        now = self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        elif now - self._quiet_since >= self.head_s * 0.99:
            CLOSED.labels("silent").inc()
            if self.conn.our_state is h11.IDLE:
                self.conn.send(h11.ConnectionClosed())
            self.transport.close()
            return
        self._watch = self.loop.call_later(self.head_s, self._look)


def make_room(max_connections: int) -> int:
    """Raise this process's limit of open files as far as it may; what does not fit is told."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_connections
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        logger.warning("%d connections at most: only %d files may be open", most // 2, most)
        return most // 2
    return max_connections


def connection_class(
    max_connections: int = MAX_CONNECTIONS, head_s: float = HEAD_S
) -> type[Connection]:
    """The protocol with its limits set."""
    limits = {"max_connections": max_connections, "head_s": head_s}
    return type("LimitedConnection", (Connection,), limits)


def _refusal(limit: int) -> bytes:
    error = OutOfCapacity(f"{limit} connections are open, which is the limit; come back later.")
    body = json.dumps(envelope(error)).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
