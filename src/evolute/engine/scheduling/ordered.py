"""Items by rank, where ranks change often and only the first few are ever wanted.

    ordered.put(item, rank)     new, or with another rank; logarithmic time
    ordered.discard(item)       of no effect when it is not in
    ordered.first()             (rank, item) of the least rank, or None
    ordered.walk()              all in order; logarithmic time for each

A heap whose outdated entries are skipped, and thrown out once they are the most. Walking it from
the root takes nothing out, so looking at the first few of ten thousand costs what it costs of ten.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Rank = Any  # compares with its kind
Entry = tuple[Rank, int, T]  # the number makes each unlike all others
SPARE = 64  # outdated entries that do no harm


class Ordered(Generic[T]):
    """Items are told apart as keys of a dict are."""

    def __init__(self) -> None:
        self._numbers = count()
        self._heap: list[Entry[T]] = []
        self._valid: dict[T, Entry[T]] = {}

    def put(self, item: T, rank: Rank) -> None:
        known = self._valid.get(item)
        if known is None or known[0] != rank:
            entry = self._valid[item] = (rank, next(self._numbers), item)
            heapq.heappush(self._heap, entry)
            self._tidy()

    def discard(self, item: T) -> None:
        if self._valid.pop(item, None) is not None:
            self._tidy()

    def first(self) -> tuple[Rank, T] | None:
        heap = self._heap
        while heap and self._valid.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return (heap[0][0], heap[0][2]) if heap else None

    def walk(self) -> Iterator[tuple[Rank, T]]:
        """Nothing may be put or discarded until it has ended or is given up."""
        heap = self._heap
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            entry, place = heapq.heappop(frontier)
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(heap):
                    heapq.heappush(frontier, (heap[child], child))
            if self._valid.get(entry[2]) is entry:
                yield entry[0], entry[2]

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, item: T) -> bool:
        return item in self._valid

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._valid) + SPARE:
            self._heap = list(self._valid.values())
            heapq.heapify(self._heap)
