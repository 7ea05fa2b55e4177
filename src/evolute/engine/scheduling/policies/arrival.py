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
MAX_PASSES = 64  # passed over this often, a sequence goes before all that were not


class Queue(Protocol):
    """Waiting sequences. `order` is looked at once a step; `discard` is for those that give up."""

    def push(self, sequence: Sequence, *, front: bool = False) -> None: ...
    def admit(self, sequence: Sequence) -> None: ...
    def discard(self, sequence: Sequence) -> None: ...
    def order(self, cached_tokens: CachedTokens) -> Iterator[Sequence]: ...
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

    def admit(self, sequence: Sequence) -> None:
        del self._waiting[sequence]

    def discard(self, sequence: Sequence) -> None:
        """Of no effect when it does not wait."""
        self._waiting.pop(sequence, None)

    def order(self, cached_tokens: CachedTokens) -> Iterator[Sequence]:
        return iter(list(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)


class LpmQueue(FcfsQueue):
    """Longest prefix match first, but a sequence passed over MAX_PASSES times goes before.

    A bound on passes, not a bonus in tokens: a bonus larger than the shared prefixes turns the
    order back into arrival order, and a small one lets a cold request starve.
    """

    def order(self, cached_tokens: CachedTokens) -> Iterator[Sequence]:
        """Lazy: no prompt is matched before somebody asks for the first sequence."""
        waiting = list(self._waiting)
        if len(waiting) <= LONG_QUEUE:
            waiting.sort(key=lambda s: (s.passed_over < MAX_PASSES, -cached_tokens(s)))
        yield from waiting

    def admit(self, sequence: Sequence) -> None:
        for earlier in self._waiting:
            if earlier is sequence:
                break
            earlier.passed_over += 1
        super().admit(sequence)


QUEUES = {"fcfs": FcfsQueue, "lpm": LpmQueue}
