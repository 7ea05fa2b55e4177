"""OpenAI's responses: turns as lists of items, kept for a while for the next to build on."""

from evolute.server.openai.responses.routes import responses_router

__all__ = ["responses_router"]
