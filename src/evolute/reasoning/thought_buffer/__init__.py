"""Buffer of Thoughts: a memory of solved problems, as templates that later problems fill."""

from evolute.reasoning.thought_buffer.buffer import Buffer
from evolute.reasoning.thought_buffer.embedders import Embedder, EmbeddingEndpoint, MiniLM
from evolute.reasoning.thought_buffer.method import ThoughtBuffer, make_thought_buffer
from evolute.reasoning.thought_buffer.settings import ThoughtConfig
from evolute.reasoning.thought_buffer.template import Slot, Stats, ThoughtTemplate

__all__ = [
    "Buffer",
    "Embedder",
    "EmbeddingEndpoint",
    "MiniLM",
    "Slot",
    "Stats",
    "ThoughtBuffer",
    "ThoughtConfig",
    "ThoughtTemplate",
    "make_thought_buffer",
]
