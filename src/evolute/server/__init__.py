"""HTTP: the OpenAI-compatible and native server on any `Backend`, and the client that is one."""

from evolute.server.app import create_app
from evolute.server.client import HttpBackend
from evolute.server.limits import Limits
from evolute.server.serving import RunningServer, serve, serve_in_thread
from evolute.server.tenants import Tenants

__all__ = [
    "HttpBackend",
    "Limits",
    "RunningServer",
    "Tenants",
    "create_app",
    "serve",
    "serve_in_thread",
]
