"""Evolute serves language models, trains agents on its own rollouts, and tunes itself.

    from evolute import Engine, SamplingParams
    with Engine("smollm2-135m") as engine:
        print(engine.generate("2+2=", SamplingParams(max_new_tokens=8))[0].text)

Importing this module loads nothing heavy; torch comes only where something computes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evolute.types import Output, SamplingParams

if TYPE_CHECKING:
    from evolute.engine import Engine

__version__ = "0.1.0"
__all__ = ["Engine", "Output", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from evolute.engine import Engine

        return Engine
    raise AttributeError(f"module 'evolute' has no attribute {name!r}")
