"""HTTP: the OpenAI-compatible and native server on any `Backend`, and the client that is one.

Each name brings its file when it is first used: a start reads tenants long before it needs HTTP.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolute.server.app import create_app
    from evolute.server.client import HttpBackend
    from evolute.server.limits import Limits
    from evolute.server.serving import RunningServer, serve, serve_in_thread
    from evolute.server.tenants import Tenants

ON_USE = {
    "create_app": "app",
    "HttpBackend": "client",
    "Limits": "limits",
    **dict.fromkeys(("RunningServer", "serve", "serve_in_thread"), "serving"),
    "Tenants": "tenants",
}

__all__ = [
    "HttpBackend",
    "Limits",
    "RunningServer",
    "Tenants",
    "create_app",
    "serve",
    "serve_in_thread",
]


def __getattr__(name: str) -> Any:
    if name in ON_USE:
        return getattr(import_module(f"evolute.server.{ON_USE[name]}"), name)
    raise AttributeError(f"module 'evolute.server' has no attribute {name!r}")
