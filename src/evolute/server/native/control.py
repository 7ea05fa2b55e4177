"""Steering the engine while it runs.

flush_cache          GET, POST; ?timeout=S waits until nothing is in flight; 400 when busy
abort_request        {"rid"} exactly, or {"abort_all"}; what is unknown or done is ignored
pause_generation     {"mode": "abort" | "retract" | "in_place"}; requests queue meanwhile
continue_generation
set_internal_state   {"server_args": {"policy": "lpm", ...}}: settings that need no restart
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from evolute.server.bodies import Strict
from evolute.server.errors import FieldError
from evolute.server.native.bodies import read
from evolute.server.native.operations import Operations
from evolute.server.sse import while_connected
from evolute.server.tenants import is_admin, request_id

MAX_FLUSH_WAIT_S = 600.0
POLL_S = 0.01


class AbortBody(Strict):
    rid: str | None = None
    abort_all: bool | None = None


class PauseBody(Strict):
    mode: Literal["abort", "retract", "in_place"] = "abort"


class ContinueBody(Strict):
    pass


class StateBody(Strict):
    server_args: dict[str, Any]


async def flush_cache(request: Request, operations: Operations) -> Response:
    wait_s = _seconds(request.query_params.get("timeout"))
    if not await while_connected(request, _is_idle(operations, wait_s)):
        text = "the cache was not flushed: requests are in flight. Wait for them, or abort them."
        raise FieldError(text, code="busy")
    await operations.call("flush_cache")
    return PlainTextResponse("Cache flushed.\n")


async def abort_request(request: Request, operations: Operations) -> Response:
    body = await read(request, AbortBody)
    if body.abort_all:
        if not is_admin(request):
            raise FieldError("abort_all needs the admin key.", param="abort_all", status=401)
        await operations.call("abort_all")
    elif body.rid is not None:
        await operations.call("abort", request_id(request, body.rid))
    else:
        raise FieldError("send rid, or abort_all=true.", param="rid")
    return Response(status_code=200)


async def pause_generation(request: Request, operations: Operations) -> Response:
    body = await read(request, PauseBody)
    more = {"abort": "abort_all", "retract": "retract"}.get(body.mode)
    if more:
        operations.ability(more)  # refused before anything is paused
    await operations.call("pause")
    if more:
        await operations.call(more)
    return _ok(f"Generation paused, mode {body.mode}.")


async def continue_generation(request: Request, operations: Operations) -> Response:
    await read(request, ContinueBody)
    await operations.call("resume")
    return _ok("Generation continues.")


async def set_internal_state(request: Request, operations: Operations) -> Response:
    body = await read(request, StateBody)
    if not body.server_args:
        raise FieldError("server_args is empty; name a setting.", param="server_args")
    config = await operations.call("apply_settings", **body.server_args)
    operations.journal.applied(body.server_args)
    return JSONResponse({"updated": True, "server_args": dataclasses.asdict(config)})


# -- internals ---------------------------------------------------------------


def _ok(message: str) -> JSONResponse:
    return JSONResponse({"message": message, "status": "ok"})


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_FLUSH_WAIT_S:
        message = f"timeout is {text!r}; use 0 to {MAX_FLUSH_WAIT_S:g} seconds."
        raise FieldError(message, param="timeout")
    return seconds


async def _is_idle(operations: Operations, wait_s: float) -> bool:
    """True once nothing runs or waits; False when that did not come in time."""
    ends_s = time.monotonic() + wait_s
    while True:
        stats: Any = await operations.call("stats")
        if not (stats.running or stats.waiting):
            return True
        if time.monotonic() >= ends_s:
            return False
        await asyncio.sleep(POLL_S)
