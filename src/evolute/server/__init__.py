"""HTTP: the OpenAI-compatible server on any `Backend`, and the client that is one."""

from evolute.server.app import create_app
from evolute.server.client import HttpBackend
from evolute.server.serving import RunningServer, serve, serve_in_thread

__all__ = ["HttpBackend", "RunningServer", "create_app", "serve", "serve_in_thread"]
