"""Putting an application on a port, in front or in a thread.

    serve(app, listener, on_ready)          until Ctrl-C, or SIGTERM and `drain_s`
    serve_in_thread(app, host, port)        a RunningServer with url and stop()

At SIGTERM the server drains: new requests are answered 503, those in
progress have `drain_s` to end. A second signal, and Ctrl-C, stop at once; what is still in progress
then has GRACE_S before it is cancelled.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from evolute.server.connections import MAX_CONNECTIONS, connection_class, make_room
from evolute.server.limits import Traffic
from evolute.types import BackendError, ConfigError
from evolute.types.ports import listen, url_of

logger = logging.getLogger(__name__)

GRACE_S = 2  # for answers in progress when the server stops
DRAIN_S = 30.0
START_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class RunningServer:
    """A server in a thread of this process."""

    url: str  # http://HOST:PORT
    _server: uvicorn.Server
    _thread: threading.Thread

    def stop(self) -> None:
        """Finish or cancel what is in progress and free the port. Idempotent."""
        self._server.should_exit = True
        self._thread.join()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """Says when requests are accepted, and drains at SIGTERM."""

    def __init__(
        self,
        app: FastAPI,
        on_ready: Callable[[], None],
        *,
        drain_s: float = DRAIN_S,
        max_connections: int = MAX_CONNECTIONS,
        is_alive: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACE_S,
                backlog=2048,
                http=connection_class(make_room(max_connections)),
            )
        )
        self._on_ready, self._drain_s = on_ready, drain_s
        self._is_alive, self.is_broken = is_alive, False
        self._traffic: Traffic = getattr(app.state, "traffic", None) or Traffic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM begins a drain; anything after it, and Ctrl-C, stops."""
        traffic = self._traffic
        if sig != signal.SIGTERM or traffic.is_draining or not self._drain_s:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        traffic.drain_ends_s = time.monotonic() + self._drain_s
        traffic.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        traffic = self._traffic
        if traffic.is_draining and not self.should_exit:
            is_late = time.monotonic() >= traffic.drain_ends_s
            self.should_exit = is_late or not traffic.in_flight
            if is_late and traffic.in_flight:
                logger.warning("%d requests did not end within the drain", traffic.in_flight)
        if self._is_alive and not self._is_alive():
            self.is_broken = self.should_exit = True
        return await super().on_tick(counter)


def serve(
    app: FastAPI,
    listener: socket.socket,
    on_ready: Callable[[], None] = lambda: None,
    *,
    drain_s: float = DRAIN_S,
    max_connections: int = MAX_CONNECTIONS,
    is_alive: Callable[[], bool] | None = None,
) -> None:
    """Serve until interrupted. Calls `on_ready` once requests are accepted.

    With `is_alive` the server ends, with a BackendError, as soon as that is False.
    """
    with contextlib.closing(listener):
        server = _Server(
            app, on_ready, drain_s=drain_s, max_connections=max_connections, is_alive=is_alive
        )
        with contextlib.suppress(KeyboardInterrupt):  # a clean stop: uvicorn raises it again
            server.run(sockets=[listener])
        if not server.started:
            raise ConfigError("the server could not start; its log says why.")
        if server.is_broken:
            raise BackendError("the engine's thread has ended; its log says why.")


def serve_in_thread(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    max_connections: int = MAX_CONNECTIONS,
) -> RunningServer:
    """Returns once requests are accepted."""
    listener = listen(host, port)
    ready = threading.Event()
    server = _Server(app, ready.set, max_connections=max_connections)

    def run() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            listener.close()
            ready.set()

    thread = threading.Thread(target=run, name="evolute-server", daemon=True)
    thread.start()
    if not ready.wait(START_S) or not server.started:
        server.should_exit = True
        raise ConfigError(f"the server did not start within {START_S:g} s; its log says why.")
    return RunningServer(url_of(listener), server, thread)
