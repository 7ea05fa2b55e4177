"""Pages of keys and values and of adapters, and the tree that lets requests share them."""

from evolute.engine.memory.pages import PageId, PagePool
from evolute.engine.memory.radix import Match, RadixCache, RadixNode
from evolute.engine.memory.residency import NO_ADAPTER, AdapterId, Loader, Residency

__all__ = [
    "NO_ADAPTER",
    "AdapterId",
    "Loader",
    "Match",
    "PageId",
    "PagePool",
    "RadixCache",
    "RadixNode",
    "Residency",
]
