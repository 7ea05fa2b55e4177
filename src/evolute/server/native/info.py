"""What is served here, and with which settings.

model_info     GET /model_info, /get_model_info
server_info    GET /server_info, /get_server_info
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.models.config import ARCHITECTURES
from evolute.server import admin
from evolute.server.native.operations import Operations
from evolute.server.tenants import is_admin, visible


async def model_info(request: Request, operations: Operations) -> Response:
    path = str(operations.known("model_path", operations.engine.model_name))
    kind = getattr(operations.known("model_config"), "architecture", None)
    return JSONResponse(
        {
            "model_path": path,
            "served_model_name": operations.names.served[0],
            "tokenizer_path": path,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": operations.version_label(await operations.version()),
            "load_format": "auto",
            "reasoning_parser": None,
            "tool_call_parser": None,
            "disaggregation_mode": "null",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": kind,
            "architectures": [ARCHITECTURES[kind]] if kind in ARCHITECTURES else [],
            "max_model_len": admin.context_of(operations.engine),
        }
    )


async def server_info(request: Request, operations: Operations) -> Response:
    """The engine's settings at the top, its figures as the one entry of internal_states."""
    settings = _plain(operations.known("config", {}))
    stats = visible(request, _plain(await operations.call("stats")))
    if not is_admin(request):
        settings.pop("tenant_weights", None)
    page_size, num_pages = settings.get("page_size", 0), stats.get("num_pages", 0)
    served = {
        "model_path": str(operations.known("model_path", operations.engine.model_name)),
        "served_model_name": operations.names.served[0],
        "max_total_num_tokens": page_size * num_pages,
        "max_req_input_len": admin.context_of(operations.engine),
        "max_running_requests": settings.get("max_running"),
        "status": "paused" if _is_paused(operations) else "ready",
        "internal_states": [stats],
        "version": version("evolute"),
    }
    return JSONResponse(settings | served)


# -- internals ---------------------------------------------------------------


def _is_paused(operations: Operations) -> bool:
    return bool(getattr(operations.known("heartbeat"), "is_paused", False))


def _plain(stats: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(stats) and not isinstance(stats, type):
        return dataclasses.asdict(stats)
    return dict(stats)
