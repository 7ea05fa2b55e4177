"""Items by rank, where ranks change often and only the first few are ever wanted.

    ordered.put(item, rank, tie)   new, or with another rank; logarithmic time
    ordered.discard(item)          of no effect when it is not in
    ordered.first()                (rank, item) of the least rank, or None
    ordered.walk()                 all in order; constant time for each
    ordered.walk(risen, rank)      the same, where the ranks of `risen` may have grown since they
                                   were put: rank(item) is what it is now

Sorted blocks. Who has risen is put where it belongs only when a walk comes to its old place: of
thousands that rise in each step, those behind the first few cost nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
Entry = tuple[float, int, T]  # rank, tie
BLOCK = 512  # entries; one with more is split


class Ordered(Generic[T]):
    """Items are told apart as keys of a dict are. Of equal ranks the least tie is first; ties are
    all different, or all left out: then who was put first."""

    def __init__(self) -> None:
        self._numbers = count()
        self._entries: dict[T, Entry[T]] = {}
        self._blocks: list[list[Entry[T]]] = []  # none is empty
        self._heads: list[Entry[T]] = []  # the first of each

    def put(self, item: T, rank: float, tie: int | None = None) -> None:
        known = self._entries.get(item)
        if known is not None:
            if known[0] == rank and tie in (None, known[1]):
                return
            self._remove(known)
        place = self._insert((rank, next(self._numbers) if tie is None else tie, item))
        if len(self._blocks[place]) > BLOCK:
            self._split(place)

    def discard(self, item: T) -> None:
        known = self._entries.pop(item, None)
        if known is not None:
            self._remove(known)

    def first(self) -> tuple[float, T] | None:
        return next(self.walk(), None)

    def walk(
        self, risen: dict[T, None] | None = None, rank: Callable[[T], float] | None = None
    ) -> Iterator[tuple[float, T]]:
        """Nothing may be put or discarded until it has ended or is given up. Whoever it comes to
        is taken out of `risen`."""
        place = index = 0
        while place < len(self._blocks):
            block = self._blocks[place]
            if index == len(block):
                place, index = place + 1, 0
                continue
            before, tie, item = block[index]
            if risen and rank and item in risen:
                del risen[item]
                now = rank(item)
                if now > before:
                    self._insert((now, tie, item))  # behind the old one, which then goes
                    self._drop(place, index)
                    continue
            yield before, item
            index += 1

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    # -- internals -----------------------------------------------------------

    def _place(self, entry: Entry[T]) -> int:
        return max(bisect_right(self._heads, entry) - 1, 0)

    def _insert(self, entry: Entry[T]) -> int:
        """Returns its block, which may have grown above BLOCK."""
        self._entries[entry[2]] = entry
        if not self._blocks:
            self._blocks.append([])
            self._heads.append(entry)
        place = self._place(entry)
        insort(self._blocks[place], entry)
        self._heads[place] = self._blocks[place][0]
        return place

    def _remove(self, entry: Entry[T]) -> None:
        place = self._place(entry)
        self._drop(place, bisect_left(self._blocks[place], entry))

    def _drop(self, place: int, index: int) -> None:
        block = self._blocks[place]
        del block[index]
        if not block:
            del self._blocks[place], self._heads[place]
        elif not index:
            self._heads[place] = block[0]

    def _split(self, place: int) -> None:
        block = self._blocks[place]
        parts = [block[i : i + BLOCK // 2] for i in range(0, len(block), BLOCK // 2)]
        self._blocks[place : place + 1] = parts
        self._heads[place : place + 1] = [part[0] for part in parts]
