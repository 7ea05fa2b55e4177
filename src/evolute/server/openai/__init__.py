"""OpenAI's API: completions, chat, responses."""

from evolute.server.openai.chat import converse
from evolute.server.openai.completions import complete
from evolute.server.openai.responses import responses_router

__all__ = ["complete", "converse", "responses_router"]
