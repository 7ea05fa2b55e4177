"""Anthropic's API: messages, how many tokens they have, and models in its own form."""

from evolute.server.anthropic.models import is_anthropic, model_info, model_page
from evolute.server.anthropic.routes import messages_router

__all__ = ["is_anthropic", "messages_router", "model_info", "model_page"]
