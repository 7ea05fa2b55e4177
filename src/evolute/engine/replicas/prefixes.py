"""Which replica has probably cached the start of this prompt? Told from what was sent there.

    add(replica, capacity), remove(replica)
    match(namespace, tokens) -> {replica: tokens}     whole pages
    insert(replica, namespace, tokens)
    drop(is_stale)                                    namespaces that match no more
    clear()

One radix tree for all replicas, an edge for each page of tokens; each replica holds a part of it
that is closed under prefixes and bounded in pages, least recently used first to go. Nothing is
asked of the replicas: what they evicted for other reasons is matched in vain, and costs a longer
prefill. After the router of SGLang (Zheng et al. 2024, appendix A.4).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

NodeId = int
Edge = tuple[NodeId, Hashable]  # the parent, and the page of tokens; of a root: -1, the namespace
NO_PARENT = -1


class PrefixTree:
    """Invariants, asserted by `check`: a replica that holds a node holds its parent, and used it no
    earlier; a node has a holder; nobody holds more pages than its capacity."""

    def __init__(self, page_size: int = 16) -> None:
        self.page_size = page_size
        self._ids: dict[Edge, NodeId] = {}
        self._edges: dict[NodeId, tuple[Edge, Any]] = {}  # and the namespace
        self._holders: dict[NodeId, int] = {}  # how many
        self._held: dict[int, OrderedDict[NodeId, None]] = {}  # by replica, oldest first
        self._capacity: dict[int, int] = {}  # pages
        self._next = 0

    def add(self, replica: int, capacity: int) -> None:
        """A replica with nothing cached, that caches up to `capacity` tokens."""
        self.remove(replica)
        self._held[replica] = OrderedDict()
        self._capacity[replica] = capacity // self.page_size

    def remove(self, replica: int) -> None:
        """Its cache is gone; of no effect for one that is not there."""
        for node in self._held.pop(replica, OrderedDict()):
            self._release(node)

    def clear(self) -> None:
        """All caches are empty."""
        self.drop(lambda namespace: True)

    def drop(self, is_stale: Callable[[Any], bool]) -> None:
        """Forget the trees of these namespaces."""
        stale = {node for node, (_, space) in self._edges.items() if is_stale(space)}
        for held in self._held.values():
            for node in [node for node in held if node in stale]:
                del held[node]
                self._release(node)

    def match(self, namespace: Hashable, tokens: Sequence[int]) -> dict[int, int]:
        """Tokens of the longest start that each replica holds."""
        found = dict.fromkeys(self._held, 0)
        node = self._ids.get((NO_PARENT, namespace))
        left = [replica for replica, held in self._held.items() if node in held]
        for end in range(self.page_size, len(tokens) + 1, self.page_size):
            page = tuple(tokens[end - self.page_size : end])
            node = None if node is None else self._ids.get((node, page))
            if node is None:
                break
            left = [replica for replica in left if node in self._held[replica]]
            found |= dict.fromkeys(left, end)
        return found

    def insert(self, replica: int, namespace: Hashable, tokens: Sequence[int]) -> None:
        """It has computed these tokens; whole pages of them are held now."""
        held, size = self._held[replica], self.page_size
        path = [self._node((NO_PARENT, namespace), namespace)]
        for end in range(size, len(tokens) + 1, size):
            page = tuple(tokens[end - size : end])
            path.append(self._node((path[-1], page), namespace))
        for node in reversed(path):  # parents are used later: they go after their children
            if node not in held:
                held[node] = None
                self._holders[node] += 1
            held.move_to_end(node)
        while len(held) > self._capacity[replica] + 1:  # a root takes no room
            self._release(held.popitem(last=False)[0])

    def num_tokens(self, replica: int) -> int:
        """That a replica holds, roots counted as a page."""
        return len(self._held[replica]) * self.page_size

    def __len__(self) -> int:
        """Nodes of all replicas."""
        return len(self._edges)

    def check(self) -> None:
        """Assert the invariants; for tests."""
        assert sorted(self._ids.values()) == sorted(self._edges) == sorted(self._holders)
        counted = dict.fromkeys(self._edges, 0)
        for replica, held in self._held.items():
            assert len(held) <= self._capacity[replica] + 1
            order = {node: place for place, node in enumerate(held)}
            for node in held:
                counted[node] += 1
                (parent, _), _ = self._edges[node]
                assert parent == NO_PARENT or order[parent] > order[node]
        assert counted == self._holders and all(counted.values())

    # -- internals -------------------------------------------------------------

    def _node(self, edge: Edge, namespace: Hashable) -> NodeId:
        node = self._ids.get(edge)
        if node is None:
            node, self._next = self._next, self._next + 1
            self._ids[edge], self._edges[node], self._holders[node] = node, (edge, namespace), 0
        return node

    def _release(self, node: NodeId) -> None:
        self._holders[node] -= 1
        if not self._holders[node]:
            edge, _ = self._edges.pop(node)
            del self._ids[edge], self._holders[node]
