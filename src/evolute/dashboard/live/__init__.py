"""A live page of an engine, to be mounted on its server."""

from evolute.dashboard.live.routes import live_router

__all__ = ["live_router"]
