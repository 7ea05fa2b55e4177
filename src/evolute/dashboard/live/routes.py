"""The paths of the live page, for `create_app(..., extra_routers=[live_router(engine)])`.

    GET /                  the page: one document, no figures in it, so no key is needed
    GET /dashboard/data    one moment of the engine as JSON; a tenant's key sees that tenant

However many people look, the engine is asked at most once in FRESH_S for each tenant.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol, runtime_checkable

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from evolute.dashboard.live.data import plain
from evolute.dashboard.live.document import document
from evolute.engine import EngineConfig, Snapshot
from evolute.server.errors import FieldError
from evolute.types import Backend

FRESH_S = 0.5
WAIT_S = 10.0  # for the engine's thread, which answers between two steps


@runtime_checkable
class Watched(Protocol):
    """What the page needs of an engine."""

    @property
    def config(self) -> EngineConfig: ...
    @property
    def model_name(self) -> str: ...
    def snapshot(self, tenant: str | None = None) -> Snapshot: ...


def live_router(engine: Backend) -> APIRouter:
    """The page and its data. A backend that cannot be watched answers 501 with the reason."""
    router, looks, (page, headers) = APIRouter(), Looks(engine), document()

    @router.get("/", include_in_schema=False)
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @router.get("/dashboard/data")
    async def data(request: Request) -> JSONResponse:
        found = await looks.take(getattr(request.state, "tenant", None))
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return router


class Looks:
    """Looks at an engine: one at a time for each tenant, and a fresh one serves all who ask."""

    def __init__(self, engine: Backend) -> None:
        self._engine = engine
        self._last: dict[str | None, tuple[float, asyncio.Task[dict[str, Any]]]] = {}

    async def take(self, tenant: str | None) -> dict[str, Any]:
        """Raises FieldError: 501 for a backend that cannot be watched, 503 for one that is busy."""
        if not isinstance(self._engine, Watched):
            text = "this backend cannot be watched; the page needs an engine in this process."
            raise FieldError(text, code="not_supported", status=501)
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.shield(self._look(self._engine, tenant))
        except TimeoutError:
            text = f"the engine did not end its step within {WAIT_S:g} s; it is busy or hangs."
            raise FieldError(text, code="busy", status=503) from None

    def _look(self, engine: Watched, tenant: str | None) -> asyncio.Task[dict[str, Any]]:
        now = time.monotonic()
        began, task = self._last.get(tenant, (-FRESH_S, None))
        if task is not None and (not task.done() or (now - began < FRESH_S and _is_good(task))):
            return task
        task = asyncio.create_task(asyncio.to_thread(_read, engine, tenant))
        self._last[tenant] = now, task
        return task


# -- internals ---------------------------------------------------------------


def _read(engine: Watched, tenant: str | None) -> dict[str, Any]:
    return plain(engine.snapshot(tenant), engine.model_name, engine.config)


def _is_good(task: asyncio.Task[dict[str, Any]]) -> bool:
    return not task.cancelled() and task.exception() is None
