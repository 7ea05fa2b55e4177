"""Which native path is served by what.

router(engine, names, journal)     all of them on one engine
BODIES, SAMPLING          what they take, for the OpenAPI document
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from evolute.server.journal import Journal
from evolute.server.names import ModelNames
from evolute.server.native import control, generate, info, tokenizing, weights
from evolute.server.native.bodies import GenerateBody, SamplingBody
from evolute.server.native.operations import Operations
from evolute.server.sse import ClientLeft
from evolute.types import Backend

CLIENT_CLOSED_REQUEST = 499
Serve = Callable[[Request, Operations], Coroutine[Any, Any, Response]]
BOTH = ("GET", "POST")
PATHS: dict[str, tuple[tuple[str, ...], Serve]] = {
    "/generate": (("POST", "PUT"), generate.generate),
    "/model_info": (("GET",), info.model_info),
    "/get_model_info": (("GET",), info.model_info),
    "/server_info": (("GET",), info.server_info),
    "/get_server_info": (("GET",), info.server_info),
    "/tokenize": (("POST",), tokenizing.tokenize),
    "/v1/tokenize": (("POST",), tokenizing.tokenize),
    "/detokenize": (("POST",), tokenizing.detokenize),
    "/v1/detokenize": (("POST",), tokenizing.detokenize),
    "/flush_cache": (BOTH, control.flush_cache),
    "/abort_request": (("POST",), control.abort_request),
    "/pause_generation": (("POST",), control.pause_generation),
    "/continue_generation": (("POST",), control.continue_generation),
    "/set_internal_state": (("POST",), control.set_internal_state),
    "/load_lora_adapter": (("POST",), weights.load_lora_adapter),
    "/unload_lora_adapter": (("POST",), weights.unload_lora_adapter),
    "/update_weights_from_disk": (("POST",), weights.update_from_disk),
    "/update_weights_from_tensor": (("POST",), weights.update_from_tensor),
    "/get_weights_by_name": (BOTH, weights.get_by_name),
}

BODIES: dict[str, type[BaseModel]] = {
    "/generate": GenerateBody,
    "/tokenize": tokenizing.TokenizeBody,
    "/v1/tokenize": tokenizing.TokenizeBody,
    "/detokenize": tokenizing.DetokenizeBody,
    "/v1/detokenize": tokenizing.DetokenizeBody,
    "/abort_request": control.AbortBody,
    "/pause_generation": control.PauseBody,
    "/continue_generation": control.ContinueBody,
    "/set_internal_state": control.StateBody,
    "/load_lora_adapter": weights.LoadBody,
    "/unload_lora_adapter": weights.UnloadBody,
    "/update_weights_from_disk": weights.DiskBody,
    "/update_weights_from_tensor": weights.TensorBody,
    "/get_weights_by_name": weights.NameBody,
}
SAMPLING: dict[type[BaseModel], type[BaseModel]] = {GenerateBody: SamplingBody}


def router(engine: Backend, names: ModelNames, journal: Journal | None = None) -> APIRouter:
    operations = Operations(engine, names, journal)
    router = APIRouter()
    for path, (methods, serve) in PATHS.items():
        handle = _handler(serve, operations)
        for method in methods:  # one by one: each is an operation of its own in the document
            router.add_api_route(path, handle, methods=[method], response_model=None)
    return router


# -- internals ---------------------------------------------------------------


def _handler(
    serve: Serve, operations: Operations
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def handle(request: Request) -> Response:
        try:
            return await serve(request, operations)
        except ClientLeft:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    return handle
