"""Adapters and base weights of a running engine.

    load_lora_adapter {"lora_name", "lora_path", "load_inplace"}, unload_lora_adapter {"lora_name"}
    update_from_disk {"model_path", ...}       a directory of safetensors, or a GGUF file
    update_from_tensor                         safetensors bytes as the body, or in base64 in JSON
    get_by_name {"name", "truncate_size"}

An update takes everything or nothing: all is read and checked before the engine, between two
steps, takes it; afterwards no cached page of the old weights matches any more. Requests in flight
go on with the new weights unless `abort_all_requests`. Pickles are refused wherever they come.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from evolute.models import (
    BlockQuantized,
    ModelConfig,
    ModelWeights,
    load_model,
    parse_weights,
)
from evolute.server.bodies import Strict
from evolute.server.errors import FieldError
from evolute.server.native.bodies import check, read, read_object
from evolute.server.native.operations import Operations
from evolute.types import EvoluteError, ModelError, RequestError

ELSEWHERE = {"context", "bos_token_id", "eos_token_ids"}  # of a config, without effect on a step
MAX_ROWS = 4096
BINARY = "application/octet-stream"


class LoadBody(Strict):
    lora_name: str
    lora_path: str
    load_inplace: bool | None = None  # a new version for those in flight too


class UnloadBody(Strict):
    lora_name: str


class UpdateBody(Strict):
    load_format: Literal["auto", "safetensors"] | None = None
    abort_all_requests: bool | None = None
    weight_version: str | None = None
    flush_cache: bool | None = Field(None, json_schema_extra={"enum": [True, None]})
    keep_pause: Literal[True] | None = None  # a paused engine stays paused


class DiskBody(UpdateBody):
    model_path: str


class TensorBody(UpdateBody):
    serialized_named_tensors: list[str]


class NameBody(Strict):
    name: str
    truncate_size: int = 100


async def load_lora_adapter(request: Request, operations: Operations) -> Response:
    body = await read(request, LoadBody)
    if not body.lora_name:
        raise FieldError("lora_name is empty; give the adapter a name.", param="lora_name")

    async def load() -> None:
        if not body.load_inplace and body.lora_name in await _adapters(operations):
            raise RequestError(
                f"adapter {body.lora_name!r} is loaded already; unload it first, or send "
                "load_inplace=true."
            )
        await operations.call("load_adapter", body.lora_name, body.lora_path)
        operations.journal.loaded(body.lora_name, body.lora_path)

    return await _adapter_answer(operations, load)


async def unload_lora_adapter(request: Request, operations: Operations) -> Response:
    body = await read(request, UnloadBody)

    async def unload() -> None:
        await operations.call("unload_adapter", body.lora_name)
        operations.journal.unloaded(body.lora_name)

    return await _adapter_answer(operations, unload)


async def update_from_disk(request: Request, operations: Operations) -> Response:
    body = await read(request, DiskBody)

    if body.load_format == "safetensors" and body.model_path.endswith(".gguf"):
        text = "load_format is 'safetensors', but model_path is a .gguf file; use 'auto'."
        raise FieldError(text, param="load_format")

    def read_weights() -> ModelWeights:
        loaded = load_model(body.model_path)
        _check_config(operations.known("model_config"), loaded.config)
        return loaded.weights

    return await _update(operations, body, read_weights)


async def update_from_tensor(request: Request, operations: Operations) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BINARY:
        body: UpdateBody = check(_query(request), UpdateBody)
        parts = [await request.body()]
        if not parts[0]:
            raise FieldError("the body is empty; send safetensors bytes.", code="bad_body")
    else:
        values = check(await read_object(request), TensorBody)
        body, parts = values, _decoded(values.serialized_named_tensors)
    is_tied = bool(getattr(operations.known("model_config"), "tie_embeddings", False))
    return await _update(operations, body, lambda: parse_weights(parts, is_tied=is_tied))


async def get_by_name(request: Request, operations: Operations) -> Response:
    values = await read_object(request) or _query(request)
    body = check(values, NameBody)
    if not 1 <= body.truncate_size <= MAX_ROWS:
        text = f"truncate_size is {body.truncate_size}; use 1 to {MAX_ROWS}."
        raise FieldError(text, param="truncate_size")
    return JSONResponse(await operations.call("read_weight", body.name, body.truncate_size))


# -- internals ---------------------------------------------------------------


async def _adapters(operations: Operations) -> dict[str, str]:
    return {str(n): operations.journal.path(n) for n in await operations.call("adapters")}


async def _adapter_answer(operations: Operations, work: Callable[[], Any]) -> JSONResponse:
    """A failure of the caller's is told in the answer's own shape, with its status."""
    error = None
    async with operations.updating:
        try:
            await work()
        except EvoluteError as failure:
            if failure.status >= 500:
                raise
            error = str(failure)
    loaded = await _adapters(operations)
    body = {"success": error is None, "error_message": error or "", "loaded_adapters": loaded}
    return JSONResponse(body, 200 if error is None else 400)


async def _update(
    operations: Operations, body: UpdateBody, read_weights: Callable[[], ModelWeights]
) -> JSONResponse:
    if body.flush_cache is False:
        text = "flush_cache=false cannot be had: pages of other weights never match again."
        raise FieldError(text, param="flush_cache")
    operations.ability("load_weights")
    async with operations.updating:
        try:
            weights = await asyncio.to_thread(_finite, read_weights)
            if body.abort_all_requests:
                await operations.call("abort_all")
            version = await operations.version() + 1
            await operations.call("load_weights", weights, version=version)
        except (EvoluteError, MemoryError, OSError, RuntimeError) as error:  # torch's for memory
            text = f"the weights are as they were: {error}"
            return _update_answer(text, success=False, paused=await _paused(operations))
        label = operations.label(version, body.weight_version)
        operations.journal.updated(getattr(body, "model_path", None), label)
    text = f"Weights of version {label} are in use."
    return _update_answer(text, success=True, paused=await _paused(operations))


def _update_answer(message: str, *, success: bool, paused: int) -> JSONResponse:
    body = {"success": success, "message": message, "num_paused_requests": paused}
    return JSONResponse(body, 200 if success else 400)


async def _paused(operations: Operations) -> int:
    """Requests that a pause holds."""
    if not getattr(operations.known("heartbeat"), "is_paused", False):
        return 0
    stats = await operations.call("stats")
    return int(stats.running + stats.waiting)


def _finite(read_weights: Callable[[], ModelWeights]) -> ModelWeights:
    """A model with one NaN answers nothing but errors."""
    weights = read_weights()
    for name in weights:
        values = weights[name]
        if isinstance(values, BlockQuantized):
            continue  # blocks of small integers out of a file
        if not isinstance(values, np.ndarray) and not values.is_floating_point():
            raise ModelError(f"{name} is of {values.dtype}; weights are floating point.")
        if not np.isfinite(weights.array(name)).all():
            raise ModelError(f"{name} holds values that are not finite; send it again.")
    return weights


def _check_config(ours: ModelConfig | None, theirs: ModelConfig) -> None:
    """Weights of equal shapes can still belong to another network, e.g. another rope."""
    for field in dataclasses.fields(ModelConfig) if ours else ():
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name not in ELSEWHERE and mine != other:
            raise RequestError(
                f"the new model's {field.name} is {other!r}, but {mine!r} is served; only weights "
                "of the same network can be exchanged."
            )


def _decoded(texts: list[str]) -> list[bytes]:
    if not texts:
        text = "serialized_named_tensors is empty; send safetensors bytes in base64."
        raise FieldError(text, param="serialized_named_tensors")
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        message = f"serialized_named_tensors is not base64: {error}."
        raise FieldError(message, param="serialized_named_tensors") from None


def _query(request: Request) -> Mapping[str, Any]:
    """Query parameters as JSON values; what is none is a text."""
    words = {"true": True, "false": False}
    found: dict[str, Any] = {}
    for name, text in request.query_params.items():
        is_number = name == "truncate_size" and text.lstrip("-").isdecimal() and len(text) < 10
        found[name] = int(text) if is_number else words.get(text.lower(), text)
    return found
