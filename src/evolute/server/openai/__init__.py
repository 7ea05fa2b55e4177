"""OpenAI's API: completions, chat, responses."""

from evolute.server.openai.chat import converse
from evolute.server.openai.completions import complete

__all__ = ["complete", "converse"]
