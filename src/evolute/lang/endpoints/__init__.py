"""Text backends: one file each. `as_text_backend` takes any model service that Evolute knows."""

from evolute.lang.endpoints.openai import OpenAI
from evolute.lang.endpoints.process import Runtime
from evolute.lang.endpoints.runtime import RuntimeEndpoint
from evolute.lang.endpoints.tokens import OnTokens, as_text_backend

__all__ = ["OnTokens", "OpenAI", "Runtime", "RuntimeEndpoint", "as_text_backend"]
