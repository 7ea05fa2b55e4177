"""Paths that other servers have and this one does not: 501, and why.

    router()

They are left out of the OpenAPI document: there is nothing to be had there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response

from evolute.server.errors import FieldError

NO_EMBEDDINGS = "a text-generating model is served here, not an embedding model"
NO_RANKING = "score texts with /generate: max_new_tokens 0, return_logprob, logprob_start_len 0"
NO_SESSIONS = "the prefix cache finds what prompts share; send the whole prompt"
NO_GROUPS = "weights come as safetensors bytes; use /update_weights_from_tensor"
NO_PROFILE = "read /metrics and /explain/recent, or put a profiler on the process"
NO_OLLAMA = "speak OpenAI's API, under /v1"
ONE_SIZE = "memory is taken at the start and kept; restart the server with another memory_mb"
REFUSED = {
    "/v1/embeddings": NO_EMBEDDINGS,
    "/encode": NO_EMBEDDINGS,
    "/v1/images/{rest:path}": "no vision model is served here",
    "/v1/audio/{rest:path}": "no audio model is served here",
    "/v1/classify": NO_RANKING,
    "/v1/score": NO_RANKING,
    "/v1/rerank": NO_RANKING,
    "/v1/decisions": NO_RANKING,
    "/api/chat": NO_OLLAMA,
    "/api/generate": NO_OLLAMA,
    "/api/tags": NO_OLLAMA,
    "/api/show": NO_OLLAMA,
    "/open_session": NO_SESSIONS,
    "/close_session": NO_SESSIONS,
    "/load_lora_adapter_from_tensors": "adapters come as PEFT directories; use /load_lora_adapter",
    "/init_weights_update_group": NO_GROUPS,
    "/destroy_weights_update_group": NO_GROUPS,
    "/update_weights_from_distributed": NO_GROUPS,
    "/update_weights_from_ipc": NO_GROUPS,
    "/release_memory_occupation": ONE_SIZE,
    "/resume_memory_occupation": ONE_SIZE,
    "/start_profile": NO_PROFILE,
    "/stop_profile": NO_PROFILE,
    "/parse_function_call": "send tools to /v1/chat/completions; its answer has the calls",
    "/separate_reasoning": "thinking is not told apart from the answer",
}


def router() -> APIRouter:
    router = APIRouter()
    for path, reason in REFUSED.items():
        refuse, methods = _refusal(reason), ["GET", "POST"]
        router.add_api_route(
            path, refuse, methods=methods, response_model=None, include_in_schema=False
        )
    return router


def _refusal(reason: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def refuse(request: Request) -> Response:
        text = f"{request.url.path} is not supported: {reason}."
        raise FieldError(text, code="not_supported", status=501)

    return refuse
