"""Policies that do not know tenants.

Fcfs    first come, first served
Lpm     longest cached prefix first, with ageing (RadixAttention, section 3)
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from evolute.engine.scheduling.policies.ageing import (
    LAST_PASS,
    MAX_PASSES,
    WINDOW,
    Waiting,
    count_passed,
    in_turn,
    put,
    ranks,
)
from evolute.engine.scheduling.policies.policy import CachedTokens, IsReady, Share, anyone
from evolute.engine.scheduling.sequence import Sequence

KEPT = 1024  # tenants whose served tokens are counted, beside those in flight


class Fcfs:
    """Arrival order; preempted sequences go back to the front."""

    is_strict = False

    def __init__(self) -> None:
        self.newest_first = False
        self._waiting: Waiting = OrderedDict()
        self._running: dict[Sequence, None] = {}
        self._served: Counter[str] = Counter()
        self._forget_at = KEPT

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        self._running.pop(sequence, None)
        put(self._waiting, sequence, front=front)

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        taken = set(admitted)
        return (s for s in self._turns() if s not in taken)

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        self._count_passed(sequence)
        self._take(sequence)
        self._running[sequence] = None
        if not sequence.num_preemptions:
            self._served[sequence.tenant] += sequence.num_tokens - num_cached
            if len(self._served) > self._forget_at:
                self._forget_absent()

    def adopt(self, sequence: Sequence) -> None:
        if sequence not in self._waiting:
            self._running[sequence] = None

    def made(self, sequence: Sequence) -> None:
        self._served[sequence.tenant] += 1

    def finish(self, sequence: Sequence) -> None:
        self._running.pop(sequence, None)

    def discard(self, sequence: Sequence) -> None:
        if sequence in self._waiting:
            self._take(sequence)

    def victim(self, running: Iterable[Sequence], is_ready: IsReady = anyone) -> Sequence | None:
        return None

    def turn(self, sequence: Sequence) -> float:
        return 0.0

    def explain(self, sequence: Sequence) -> str:
        before = next((i for i, one in enumerate(self._waiting) if one is sequence), 0)
        return f"first come, first served: {before} came before it"

    def shares(self) -> list[Share]:
        """Tokens computed and made, for those who run or wait now."""
        waiting = Counter(s.tenant for s in self._waiting)
        running = Counter(s.tenant for s in self._running)
        tenants = sorted(waiting.keys() | running.keys())
        self._forget_absent()
        least = min((self._served[t] for t in waiting), default=0)
        return [
            Share(t, running[t], waiting[t], self._served[t], 1.0, self._served[t] - least)
            for t in tenants
        ]

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def _turns(self) -> Iterator[Sequence]:
        return in_turn(self._waiting, newest_first=self.newest_first)

    def _count_passed(self, sequence: Sequence) -> None:
        count_passed(self._waiting, sequence, newest_first=self.newest_first)

    def _take(self, sequence: Sequence) -> None:
        del self._waiting[sequence]

    def _forget_absent(self) -> None:
        """Counts are of those who run or wait."""
        present = {sequence.tenant for sequence in (*self._waiting, *self._running)}
        self._served = Counter({t: n for t, n in self._served.items() if t in present})
        self._forget_at = KEPT + 2 * len(self._served)


class Lpm(Fcfs):
    """Longest prefix match first, but who was passed over too often goes before (`ageing.py`).

    Only the WINDOW that came first are put in order; the others follow as they came.
    """

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        turns = super().order(cached_tokens, admitted)
        window = list(islice(turns, WINDOW))
        for sequence in chain(_ranked(window, cached_tokens), turns):
            num_admitted = len(admitted)
            yield sequence
            if len(admitted) == num_admitted and sequence.passed_over >= LAST_PASS:
                return  # nobody passes it any more

    def explain(self, sequence: Sequence) -> str:
        return (
            f"longest cached prefix first: it was passed over {sequence.passed_over} times, and "
            f"goes first after {MAX_PASSES}"
        )


def _ranked(window: list[Sequence], cached_tokens: CachedTokens) -> Iterator[Sequence]:
    """Of equals who came first. Lazy, as often only the first is wanted."""
    heap = [(*rank, place) for place, rank in enumerate(ranks(window, cached_tokens))]
    heapq.heapify(heap)
    while heap:
        yield window[heapq.heappop(heap)[-1]]
