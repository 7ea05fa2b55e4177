"""The native paths, with SGLang's names and shapes: generation and the server's operation."""

from evolute.server.native.routes import router

__all__ = ["router"]
