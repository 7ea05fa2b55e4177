"""Why does my request wait? What became of the last ones?

    GET /explain/{request}    each of its outputs in flight, or how it ended
    GET /recent?limit=50      outputs that ended last, newest first

An engine that cannot say answers 501. A tenant's key sees that tenant's requests only.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, Protocol, runtime_checkable

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from evolute.server.errors import FieldError
from evolute.server.tenants import request_id
from evolute.types import Backend


@runtime_checkable
class Explains(Protocol):
    def explain(self, request_id: str) -> list[Any]: ...
    def recent(self) -> list[Any]: ...


def explain_router(engine: Backend) -> APIRouter:
    """The routes on one engine."""
    router = APIRouter()

    @router.get("/explain/{rid:path}")
    async def explain(request: Request, rid: str) -> JSONResponse:
        source, ids = _explaining(engine), {request_id(request, rid), rid}
        found = [one for id in ids for one in await asyncio.to_thread(source.explain, id)]
        if not found:
            ended = await asyncio.to_thread(source.recent)
            found = [visit for visit in ended if visit.request_id in ids]
        found = _visible(request, found)
        if not found:
            text = f"no request {rid!r} is in flight or among the last that ended."
            raise FieldError(text, param="rid", code="unknown_request", status=404)
        return JSONResponse({"request": rid, "outputs": _plain(found)})

    @router.get("/recent")
    async def recent(request: Request, limit: int = 50) -> JSONResponse:
        if limit < 1:
            raise FieldError(f"limit is {limit}; ask for at least 1.", param="limit")
        ended = await asyncio.to_thread(_explaining(engine).recent)
        return JSONResponse({"outputs": _plain(_visible(request, ended)[:limit])})

    return router


# -- internals ---------------------------------------------------------------


def _explaining(engine: Backend) -> Explains:
    if not isinstance(engine, Explains):
        text = "this backend does not say why requests wait."
        raise FieldError(text, code="not_supported", status=501)
    return engine


def _visible(request: Request, found: list[Any]) -> list[Any]:
    tenant = getattr(request.state, "tenant", None)
    return [one for one in found if tenant in (None, one.tenant)]


def _plain(found: list[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in found]
