"""How much may come in: per tenant, per body, per reader, and while the server drains.

    Limits(max_in_flight, requests_per_minute)      of one tenant; 0: none
    Limiter.take(tenant), give(tenant)              TooManyRequests says when to come back
    Guard(app, ...)                                 the middleware around every request

The guard gives each request a place (`request.state.place`), which an endpoint takes once it knows
the tenant, and gives it back whatever happens. It ends bodies that are too large or do not come,
and answers that nobody reads. All times are of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evolute.server import errors
from evolute.server.errors import FieldError
from evolute.telemetry import counter, gauge
from evolute.types import ConfigError, OutOfCapacity

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
BODY_S = 60.0  # for the next piece of a body to come
SEND_S = 60.0  # for a reader to take what was sent
FORGET_AT = 256  # accounts; then those that tell nothing are looked for
UPLOADS = {"/update_weights_from_tensor"}
ALWAYS = {  # also in a drain
    *(
        "/",
        "/dashboard/data",
        "/health",
        "/health_generate",
        "/ready",
        "/ping",
        "/metrics",
        "/stats",
    ),
    "/abort_request",
}
IN_FLIGHT = gauge("server/in_flight", "HTTP requests being answered")
REFUSED = counter("server/refused", "requests refused before the engine", ("reason",))


class TooManyRequests(OutOfCapacity):
    """A tenant's own limit; the server may well have room for others."""

    status = 429


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may send. 0: no limit."""

    max_in_flight: int = 0
    requests_per_minute: int = 0

    def __post_init__(self) -> None:
        if self.max_in_flight < 0 or self.requests_per_minute < 0:
            raise ConfigError("a tenant's limits must be at least 0, which sets none.")


@dataclass(slots=True)
class _Account:
    in_flight: int = 0
    allowance: float = 0.0  # requests that may come now
    at_s: float = 0.0

    def fill(self, now: float, per_minute: int) -> None:
        gained = (now - self.at_s) * per_minute / 60
        self.allowance = min(per_minute, self.allowance + gained)
        self.at_s = now


class Limiter:
    """Counts what each tenant has in flight, and its rate as a bucket that fills by the second."""

    def __init__(
        self,
        everybody: Limits = Limits(),
        by_tenant: Mapping[str, Limits] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._everybody, self._by_tenant = everybody, dict(by_tenant or {})
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._forget_at = FORGET_AT

    def take(self, tenant: str) -> None:
        """Raises TooManyRequests, with nothing taken."""
        limits = self._by_tenant.get(tenant, self._everybody)
        account = self._account(tenant, limits)
        if limits.max_in_flight and account.in_flight >= limits.max_in_flight:
            REFUSED.labels("in_flight").inc()
            raise TooManyRequests(
                f"tenant {tenant!r} has {account.in_flight} requests in flight, and "
                f"{limits.max_in_flight} are allowed; wait for one to end."
            )
        if limits.requests_per_minute:
            if account.allowance < 1:
                REFUSED.labels("rate").inc()
                wait_s = (1 - account.allowance) * 60 / limits.requests_per_minute
                raise TooManyRequests(
                    f"tenant {tenant!r} sends more than {limits.requests_per_minute} requests a "
                    f"minute; come back in {math.ceil(wait_s)} s.",
                    wait_s,
                )
            account.allowance -= 1
        account.in_flight += 1

    def give(self, tenant: str) -> None:
        self._accounts[tenant].in_flight -= 1

    def in_flight(self) -> dict[str, int]:
        return {name: a.in_flight for name, a in self._accounts.items() if a.in_flight}

    def _account(self, tenant: str, limits: Limits) -> _Account:
        now, per_minute = self._clock(), limits.requests_per_minute
        account = self._accounts.get(tenant)
        if account is None:
            self._forget_idle(now)
            account = self._accounts[tenant] = _Account(0, per_minute, now)
        account.fill(now, per_minute)
        return account

    def _forget_idle(self, now: float) -> None:
        """A name costs nothing to invent. One with nothing in flight and all that it may send, as
        everybody has who was silent for a minute, is as good as a new one."""
        if len(self._accounts) < self._forget_at:
            return
        for name, account in list(self._accounts.items()):
            per_minute = self._by_tenant.get(name, self._everybody).requests_per_minute
            account.fill(now, per_minute)
            if not account.in_flight and account.allowance >= per_minute:
                del self._accounts[name]
        self._forget_at = max(FORGET_AT, 2 * len(self._accounts))


@dataclass(slots=True)
class Place:
    """One request's part of its tenant's limits."""

    limiter: Limiter
    _taken: list[str] = field(default_factory=list)

    def take(self, tenant: str) -> None:
        self.limiter.take(tenant)
        self._taken.append(tenant)

    def give_back(self) -> None:
        while self._taken:
            self.limiter.give(self._taken.pop())


@dataclass(slots=True)
class Traffic:
    """What the guard and the server that drains both look at."""

    limiter: Limiter = field(default_factory=Limiter)
    max_body_bytes: int = MAX_BODY_BYTES
    max_upload_bytes: int = 4 << 30
    in_flight: int = 0
    is_draining: bool = False
    drain_ends_s: float = 0.0  # time.monotonic


class ReaderGone(ConnectionError):
    """A client took nothing for SEND_S."""


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app, self._traffic = app, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        traffic, path = self._traffic, scope["path"]
        if traffic.is_draining and path not in ALWAYS:
            await errors.response(self._draining(), path)(scope, receive, send)
            return
        place = Place(traffic.limiter)
        scope.setdefault("state", {})["place"] = place
        limit = traffic.max_upload_bytes if path in UPLOADS else traffic.max_body_bytes
        traffic.in_flight += path not in ALWAYS
        IN_FLIGHT.set(traffic.in_flight)
        try:
            await self._app(scope, _Body(receive, limit), _Reader(send))
        except ReaderGone:
            logger.warning("a client of %s took nothing for %g s and was dropped", path, SEND_S)
        finally:
            place.give_back()
            traffic.in_flight -= path not in ALWAYS
            IN_FLIGHT.set(traffic.in_flight)

    def _draining(self) -> OutOfCapacity:
        REFUSED.labels("draining").inc()
        left = max(1.0, self._traffic.drain_ends_s - time.monotonic())
        return OutOfCapacity("the server is shutting down; send this to another.", left)


class _Body:
    """`receive` with a limit on the body's size and on the time between its pieces."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._size, self._is_whole = 0, False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # what comes now is the client's departure
        try:
            async with asyncio.timeout(BODY_S):
                message = await self._receive()
        except TimeoutError:
            text = f"no more of the body came within {BODY_S:g} s; send it at once."
            raise FieldError(text, code="body_timeout", status=408) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._size > self._limit:
                text = f"the body is larger than {self._limit} bytes; send less at once."
                raise FieldError(text, code="body_too_large", status=413)
        return message


class _Reader:
    """`send` with a limit on how long a client may take nothing."""

    def __init__(self, send: Send) -> None:
        self._send, self._is_gone = send, False

    async def __call__(self, message: Message) -> None:
        if self._is_gone:
            raise ReaderGone
        try:
            async with asyncio.timeout(SEND_S):
                await self._send(message)
        except TimeoutError:
            self._is_gone = True
            raise ReaderGone from None
