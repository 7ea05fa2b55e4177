"""Prefix cache: which pages already hold the start of this prompt?

    match(namespace, tokens) -> Match     read only; whole pages
    pin(match) -> node / unpin(node)      hold a path while a request uses it
    insert(namespace, tokens, pages)      publish pages; returns the caller's duplicates
    evict(n, spill) -> pages              the least recently used, unpinned leaves first
    drop(is_stale) -> pages               namespaces that must never match again
    outline(count) -> Outline             its largest branches, for people to look at

A page is `page_size` tokens; the tree never splits inside a page. A namespace (adapter, weight
version, salt) is a tree of its own: equal tokens under different weights never share pages.
RadixAttention (Zheng et al. 2024, section 3), with pages instead of single tokens.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.engine.memory.pages import PageId

Tokens = tuple[int, ...]
# namespace, tokens from the root, pages of the last of them: what leaves the tree, before it does
Spill = Callable[[Any, Tokens, tuple[PageId, ...]], None]


@dataclass(slots=True, eq=False)
class RadixNode:
    """A run of tokens and the pages that hold their keys and values.

    Invariants, asserted by `RadixCache.check`:
      len(tokens) == len(pages) * page_size, and > 0 but for a root
      refs >= max(child.refs): pinning a node pins the path above it
      siblings differ in their first page of tokens
    """

    tokens: Tokens
    pages: tuple[PageId, ...]
    parent: RadixNode | None
    children: dict[Tokens, RadixNode] = field(default_factory=dict)  # first page -> child
    refs: int = 0
    last_used: int = 0
    is_dropped: bool = False  # of a stale namespace: gone as soon as it is unpinned
    namespace: Hashable = None  # of a root


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached start of a prompt."""

    node: RadixNode
    pages_in_node: int  # how much of `node` matched; the rest belongs to another prompt
    pages: tuple[PageId, ...]  # from the root
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Branch:
    """A node as people see it; `pages_below` counts its own too."""

    parent: int  # place in the outline, before its own; -1: it begins a tree
    namespace: Any  # None: of a namespace that was dropped
    num_tokens: int
    num_pages: int
    pages_below: int
    users: int  # requests that hold it
    num_children: int


@dataclass(frozen=True, slots=True)
class Outline:
    """The branches that hold most, and how much there is in all."""

    branches: tuple[Branch, ...]
    num_nodes: int
    num_pages: int


class RadixCache:
    """Prefix trees over pages, one a namespace."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = 0  # held by the trees
        self.num_pinned = 0  # of them, in use by a request
        self.changes = 0  # grows whenever a `Match` made before may no longer hold
        self._roots: dict[Hashable, RadixNode] = {}
        self._dropped: list[RadixNode] = []  # stale roots with pages that are still pinned
        self._clock = itertools.count(1)
        self._leaves: list[tuple[int, int, RadixNode]] = []  # heap; entries may be out of date
        self._order = itertools.count()

    @property
    def num_evictable(self) -> int:
        return self.num_pages - self.num_pinned

    def match(self, namespace: Hashable, tokens: Sequence[int]) -> Match:
        """Longest run of whole pages of `tokens` in the cache."""
        tokens, size = tuple(tokens), self.page_size
        node = self._roots.get(namespace) or RadixNode((), (), None)
        start, pages = 0, list[PageId]()
        while child := node.children.get(tokens[start : start + size]):
            shared = self._shared_pages(child, tokens, start)
            pages += child.pages[:shared]
            start += shared * size
            if shared < len(child.pages):
                return Match(child, shared, tuple(pages), start)
            node = child
        return Match(node, len(node.pages), tuple(pages), start)

    def pin(self, match: Match) -> RadixNode:
        """Hold the matched path; splits the node if only its head matched."""
        node = self._split(match.node, match.pages_in_node)
        now = next(self._clock)
        for held in self._path(node):
            self.num_pinned += len(held.pages) if held.refs == 0 else 0
            held.refs += 1
            held.last_used = now
        return node

    def unpin(self, node: RadixNode) -> list[PageId]:
        """Let go. Returns pages of stale namespaces which nobody uses any more."""
        freed: list[PageId] = []
        for held in list(self._path(node)):
            held.refs -= 1
            assert held.refs >= 0, "unpinned more often than pinned"
            if held.refs == 0:
                self.num_pinned -= len(held.pages)
                if held.is_dropped and not held.children:
                    freed += self._remove(held)
                else:
                    self._offer(held)
        return freed

    def insert(
        self, namespace: Hashable, tokens: Sequence[int], pages: Sequence[PageId]
    ) -> tuple[PageId, ...]:
        """Publish the whole pages of `tokens`. Returns the caller's pages that are duplicates.

        The tree takes over every page it did not have; `pages` may be longer than needed.
        """
        size = self.page_size
        whole = len(tokens) // size
        assert len(pages) >= whole, f"{len(tokens)} tokens fill {whole} pages, got {len(pages)}"
        tokens = tuple(tokens[: whole * size])
        root = self._root(namespace)
        match = self.match(namespace, tokens)
        known = len(match.pages)
        if known < whole:
            parent = self._split(match.node if match.pages else root, match.pages_in_node)
            new = RadixNode(
                tokens[known * size :],
                tuple(pages[known:whole]),
                parent,
                last_used=next(self._clock),
                is_dropped=parent.is_dropped,
            )
            parent.children[new.tokens[:size]] = new
            self.num_pages += len(new.pages)
            self.changes += 1
            self._offer(new)
        return tuple(mine for mine, cached in zip(pages, match.pages) if mine != cached)

    def evict(self, count: int, spill: Spill | None = None) -> list[PageId]:
        """Drop unpinned leaves, oldest first, until `count` pages are free or none is left.
        `spill` sees each before it goes, but for those of stale namespaces."""
        freed: list[PageId] = []
        while self._leaves and len(freed) < count:
            used, _, leaf = heapq.heappop(self._leaves)
            if self._is_evictable(leaf) and used == leaf.last_used:
                parent = leaf.parent
                if spill is not None and not leaf.is_dropped:
                    spill(*self._whole_path(leaf), leaf.pages)
                freed += self._remove(leaf)
                if parent is not None:
                    self._offer(parent)
        return freed

    def drop(self, is_stale: Callable[[Any], bool]) -> list[PageId]:
        """Forget namespaces. What is pinned goes when it is unpinned."""
        freed: list[PageId] = []
        for namespace in [name for name in self._roots if is_stale(name)]:
            root = self._roots.pop(namespace)
            self.changes += 1
            for node in reversed(list(self._below(root))):  # children before parents
                node.is_dropped = True
                if node.refs == 0 and not node.children:
                    freed += self._remove(node)
            if root.children:
                self._dropped.append(root)
        self._dropped = [root for root in self._dropped if root.children]  # the others are done
        return freed

    def outline(self, count: int) -> Outline:
        """The `count` nodes with most pages at and below them; with each also those above it."""
        found: list[tuple[Any, RadixNode]] = [
            (namespace, node) for namespace, root in self._named() for node in self._below(root)
        ]
        below: dict[RadixNode, int] = {}
        for _, node in reversed(found):  # children before parents
            below[node] = len(node.pages) + sum(below[c] for c in node.children.values())
        largest = heapq.nsmallest(count, range(len(found)), key=lambda i: (-below[found[i][1]], i))
        place_of: dict[RadixNode | None, int] = {}
        branches: list[Branch] = []
        for namespace, node in (found[i] for i in sorted(largest)):
            place_of[node] = len(branches)
            above = place_of.get(node.parent, -1)
            sizes = len(node.tokens), len(node.pages), below[node]
            branches.append(Branch(above, namespace, *sizes, node.refs, len(node.children)))
        return Outline(tuple(branches), len(found), self.num_pages)

    def pages(self) -> list[PageId]:
        """Every page the trees hold, stale ones that are still pinned included."""
        return [page for node in self._nodes() for page in node.pages]

    def check(self) -> None:
        """Assert the invariants; for tests, and cheap enough when idle."""
        size, nodes = self.page_size, list(self._nodes())
        for node in nodes:
            assert len(node.tokens) == len(node.pages) * size > 0, node
            assert all(node.refs >= child.refs for child in node.children.values()), node
            for key, child in node.children.items():
                assert child.parent is node and child.tokens[:size] == key, node
        held = [page for node in nodes for page in node.pages]
        assert len(set(held)) == len(held) == self.num_pages, "a page is held twice or was lost"
        pinned = sum(len(node.pages) for node in nodes if node.refs)
        assert pinned == self.num_pinned, f"{pinned} pages are pinned, counted {self.num_pinned}"

    # -- internals -----------------------------------------------------------

    def _root(self, namespace: Hashable) -> RadixNode:
        """The namespace's tree; empty trees of others are forgotten now and then."""
        if namespace not in self._roots and len(self._roots) > 2 * self.num_pages + 64:
            self._roots = {name: root for name, root in self._roots.items() if root.children}
        return self._roots.setdefault(namespace, RadixNode((), (), None, namespace=namespace))

    def _shared_pages(self, node: RadixNode, tokens: Tokens, start: int) -> int:
        size, count = self.page_size, len(node.pages)
        if node.tokens == tokens[start : start + len(node.tokens)]:
            return count
        low, high = 1, count - 1  # the first page matched, or we would not be here
        while low < high:
            middle = (low + high + 1) // 2
            if node.tokens[: middle * size] == tokens[start : start + middle * size]:
                low = middle
            else:
                high = middle - 1
        return low

    def _split(self, node: RadixNode, keep: int) -> RadixNode:
        """Cut `node` after `keep` pages; returns the upper half."""
        if keep == len(node.pages):
            return node
        size = self.page_size
        cut = keep * size
        upper = RadixNode(
            node.tokens[:cut],
            node.pages[:keep],
            node.parent,
            refs=node.refs,
            last_used=node.last_used,
            is_dropped=node.is_dropped,
        )
        assert node.parent is not None, "a root has no pages to split"
        node.parent.children[upper.tokens[:size]] = upper
        node.tokens, node.pages, node.parent = node.tokens[cut:], node.pages[keep:], upper
        upper.children[node.tokens[:size]] = node
        self.changes += 1  # a match made before names the wrong half
        return upper

    def _is_evictable(self, node: RadixNode) -> bool:
        return node.parent is not None and node.refs == 0 and not node.children

    def _offer(self, node: RadixNode) -> None:
        if self._is_evictable(node):
            if len(self._leaves) > 2 * self.num_pages + 64:  # a node has a page: half is stale
                live = {n: (used, i, n) for used, i, n in self._leaves if used == n.last_used}
                self._leaves = [entry for n, entry in live.items() if self._is_evictable(n)]
                heapq.heapify(self._leaves)
            heapq.heappush(self._leaves, (node.last_used, next(self._order), node))

    def _remove(self, leaf: RadixNode) -> tuple[PageId, ...]:
        assert leaf.parent is not None
        del leaf.parent.children[leaf.tokens[: self.page_size]]
        leaf.parent = None
        self.num_pages -= len(leaf.pages)
        self.changes += 1
        return leaf.pages

    def _path(self, node: RadixNode) -> Iterator[RadixNode]:
        current: RadixNode | None = node
        while current is not None and current.parent is not None:
            above = current.parent
            yield current
            current = above

    def _whole_path(self, node: RadixNode) -> tuple[Hashable, Tokens]:
        """The node's namespace, and all tokens from the root to its end."""
        runs, root = [node.tokens], node
        while root.parent is not None:
            root = root.parent
            runs.append(root.tokens)
        return root.namespace, tuple(itertools.chain.from_iterable(reversed(runs)))

    def _nodes(self) -> Iterator[RadixNode]:
        for _, root in self._named():
            yield from self._below(root)

    def _named(self) -> list[tuple[Hashable, RadixNode]]:
        """Every tree with its namespace; None for those that were dropped."""
        self._dropped = [root for root in self._dropped if root.children]
        return [*self._roots.items(), *((None, root) for root in self._dropped)]

    def _below(self, root: RadixNode) -> Iterator[RadixNode]:
        stack = list(root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()
