"""Pages of keys and values and of adapters, the tree that lets requests share them, and the
slots to which evicted ones are copied."""

from evolute.engine.memory.costs import Costs, RestoreName
from evolute.engine.memory.pages import PageId, PagePool
from evolute.engine.memory.radix import Branch, Match, Outline, RadixCache, RadixNode
from evolute.engine.memory.residency import NO_ADAPTER, AdapterId, Loader, Residency
from evolute.engine.memory.tier import SlotStore, Tier, TierCounts, page_digests

__all__ = [
    "NO_ADAPTER",
    "AdapterId",
    "Branch",
    "Costs",
    "Loader",
    "Match",
    "Outline",
    "PageId",
    "PagePool",
    "RadixCache",
    "RadixNode",
    "Residency",
    "RestoreName",
    "SlotStore",
    "Tier",
    "TierCounts",
    "page_digests",
]
