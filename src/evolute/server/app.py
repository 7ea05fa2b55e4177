"""The HTTP application: which paths there are and who may call them.

    create_app(engine, served_names=["smollm2-135m"]) -> FastAPI

Other rooms mount their pages with `extra_routers`; the same key check guards them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evolute.lang.tools import ToolFormat, format_of
from evolute.server import admin, errors, health, native, openapi, refused
from evolute.server.anthropic import is_anthropic, messages_router, model_info, model_page
from evolute.server.explain import explain_router
from evolute.server.health import Health
from evolute.server.journal import Journal
from evolute.server.limits import Guard, Limiter, Limits, Traffic
from evolute.server.names import ModelNames
from evolute.server.openai import complete, converse, responses_router
from evolute.server.sse import ClientLeft
from evolute.server.tenants import Tenants, gate, visible
from evolute.telemetry import counter, gauge, histogram, prometheus_text
from evolute.types import Backend

CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody reads it but a log
COUNTED = {
    *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/models"),
    *("/generate", "/health", "/metrics"),
}
REQUESTS = counter("server/requests", "HTTP requests answered", ("path", "status"))
SECONDS = histogram(
    "server/request_s", "seconds from arrival to the last byte", (0.01, 0.1, 0.5, 1, 5, 20, 60)
)
RESTARTS = gauge("server/restarts", "times that the serving process was started again")
BLOCKS = gauge("server/python_blocks", "blocks of memory that Python's objects take")
BLOCKS.set_function(sys.getallocatedblocks)
Serve = Callable[[Request, Backend, ModelNames], Coroutine[Any, Any, Response]]


def create_app(
    engine: Backend,
    *,
    served_names: Sequence[str],
    api_keys: Sequence[str] | None = None,
    tenants: Tenants | None = None,
    limits: Limits = Limits(),  # noqa: B008
    stall_s: float = health.STALL_S,
    extra_routers: Sequence[APIRouter] = (),
    tool_format: ToolFormat | None = None,
    journal: Journal | None = None,
    restarts: int = 0,
) -> FastAPI:
    """An application on `engine`. `served_names[0]` is the base's name in answers.

    With `api_keys` or `tenants` that have keys, every path but / and /health needs one. `limits`
    are those of each tenant that has none of its own. `tool_format` is how the model writes tool
    calls; None: as its chat template shows. `journal` is told of adapters, weights and settings
    that change; `restarts` is for /metrics.
    """
    names = ModelNames(engine, served_names)
    tenants = tenants or Tenants.of(api_keys)
    RESTARTS.set(restarts)
    traffic = Traffic(Limiter(limits, tenants.limits(limits)))
    app = FastAPI(
        title="Evolute",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(gate(tenants))],
    )
    app.add_middleware(_Counted)
    app.add_middleware(Guard, traffic=traffic)
    errors.install(app)
    for left in (ClientLeft, ClientDisconnect):  # before, or after, its body was whole
        app.add_exception_handler(left, _left)
    app.state.engine, app.state.names, app.state.traffic = engine, names, traffic
    calls = tool_format or format_of(engine.tokenizer)
    ours = [make(engine, names, calls) for make in (_openai, responses_router, messages_router)]
    own = (*ours, _status(engine), explain_router(engine))
    native_paths = native.router(engine, names, journal)
    status = health.router(Health(engine, traffic, stall_s))
    last = (openapi.router(app), *extra_routers, refused.router())
    for router in (*own, native_paths, status, *last):
        app.include_router(router)
    return app


def _openai(engine: Backend, names: ModelNames, tool_format: ToolFormat) -> APIRouter:
    router = APIRouter(prefix="/v1")

    def post(path: str, serve: Serve) -> None:
        async def handle(request: Request) -> Response:
            return await serve(request, engine, names)

        router.post(path, response_model=None)(handle)

    post("/completions", complete)
    post("/chat/completions", partial(converse, tool_format=tool_format))

    @router.get("/models")
    async def models(request: Request) -> JSONResponse:
        cards = await names.listing()
        if is_anthropic(request):
            return JSONResponse(model_page(cards))
        return JSONResponse({"object": "list", "data": cards})

    @router.get("/models/{name:path}")
    async def model(request: Request, name: str) -> JSONResponse:
        card = await names.card(name)
        return JSONResponse(model_info(card) if is_anthropic(request) else card)

    return router


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _status(engine: Backend) -> APIRouter:
    router = APIRouter()

    @router.get("/stats")
    async def stats(request: Request) -> JSONResponse:
        return JSONResponse(visible(request, await asyncio.to_thread(admin.stats, engine)))

    @router.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(prometheus_text(), media_type="text/plain; version=0.0.4")

    return router


class _Counted:
    """Counts answers by path and status, and the seconds until each one's end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), "none"  # none: nothing was sent

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            REQUESTS.labels(path, status).inc()
            SECONDS.observe(time.perf_counter() - began)
