"""Who waits, and in which order they are looked at.

    FcfsQueue    first come, first served
    LpmQueue     longest cached prefix first, with ageing (RadixAttention, section 3)

The order is the queue's business; whether there is room is the step's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from evolute.engine.scheduling.sequence import Sequence

CachedTokens = Callable[[Sequence], int]
LONG_QUEUE = 128  # matching every waiting prompt costs more than it saves
AGEING_TOKENS = 64  # what being passed over once is worth


class Queue(Protocol):
    """Waiting sequences. `order` is looked at once a step; `remove` on admission or abort."""

    def push(self, sequence: Sequence, *, front: bool = False) -> None: ...
    def remove(self, sequence: Sequence) -> None: ...
    def order(self, cached_tokens: CachedTokens) -> list[Sequence]: ...
    def __len__(self) -> int: ...


class FcfsQueue:
    """Arrival order; preempted sequences go back to the front."""

    def __init__(self) -> None:
        self._waiting: dict[Sequence, None] = {}

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        if front:
            self._waiting = {sequence: None, **self._waiting}
        else:
            self._waiting[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        del self._waiting[sequence]

    def order(self, cached_tokens: CachedTokens) -> list[Sequence]:
        return list(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)


class LpmQueue(FcfsQueue):
    """Longest prefix match first. Being passed over counts as AGEING_TOKENS more cached tokens,
    so a cold request is admitted after a bounded number of passes."""

    def order(self, cached_tokens: CachedTokens) -> list[Sequence]:
        if len(self._waiting) > LONG_QUEUE:
            return list(self._waiting)
        worth = {s: cached_tokens(s) + AGEING_TOKENS * s.passed_over for s in self._waiting}
        return sorted(self._waiting, key=lambda sequence: -worth[sequence])

    def remove(self, sequence: Sequence) -> None:
        for earlier in self._waiting:
            if earlier is sequence:
                break
            earlier.passed_over += 1
        super().remove(sequence)


QUEUES = {"fcfs": FcfsQueue, "lpm": LpmQueue}
