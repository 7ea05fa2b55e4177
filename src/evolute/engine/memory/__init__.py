"""Pages of keys and values and of adapters, and the tree that lets requests share them."""

from evolute.engine.memory.pages import PageId, PagePool
from evolute.engine.memory.radix import Branch, Match, Outline, RadixCache, RadixNode
from evolute.engine.memory.residency import NO_ADAPTER, AdapterId, Loader, Residency

__all__ = [
    "NO_ADAPTER",
    "AdapterId",
    "Branch",
    "Loader",
    "Match",
    "Outline",
    "PageId",
    "PagePool",
    "RadixCache",
    "RadixNode",
    "Residency",
]
