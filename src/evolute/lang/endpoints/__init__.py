"""Text backends: one file each. `as_text_backend` takes any model service that Evolute knows."""

from evolute.lang.endpoints.tokens import OnTokens, as_text_backend

__all__ = ["OnTokens", "as_text_backend"]
