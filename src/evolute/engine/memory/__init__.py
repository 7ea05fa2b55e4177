"""Pages of keys and values, and the tree that lets requests share them."""

from evolute.engine.memory.pages import PageId, PagePool
from evolute.engine.memory.radix import Match, RadixCache, RadixNode

__all__ = ["Match", "PageId", "PagePool", "RadixCache", "RadixNode"]
