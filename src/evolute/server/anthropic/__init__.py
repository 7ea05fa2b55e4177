"""Anthropic's API: messages, and how many tokens they have."""

from evolute.server.anthropic.routes import messages_router

__all__ = ["messages_router"]
