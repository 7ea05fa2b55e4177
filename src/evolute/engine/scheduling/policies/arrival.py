"""Policies that do not know tenants.

Fcfs    first come, first served
Lpm     longest cached prefix first, with ageing (RadixAttention, section 3)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from evolute.engine.scheduling.policies.policy import CachedTokens, Share
from evolute.engine.scheduling.sequence import Sequence

WINDOW = 128  # so many are matched in a step; matching all of a long queue costs more than it saves
KEPT = 1024  # tenants whose served tokens are counted, beside those in flight
MAX_PASSES = 64  # passed over this often, a sequence goes before all that were not


class Fcfs:
    """Arrival order; preempted sequences go back to the front."""

    is_strict = False

    def __init__(self) -> None:
        self._waiting: dict[Sequence, None] = {}
        self._running: dict[Sequence, None] = {}
        self._served: Counter[str] = Counter()
        self._forget_at = KEPT

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        self._running.pop(sequence, None)
        if front:
            self._waiting = {sequence: None, **self._waiting}
        else:
            self._waiting[sequence] = None

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        return iter(list(self._waiting))

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        del self._waiting[sequence]
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
        self._waiting.pop(sequence, None)

    def victim(self, running: Iterable[Sequence]) -> Sequence | None:
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

    def _forget_absent(self) -> None:
        """Counts are of those who run or wait."""
        present = {sequence.tenant for sequence in (*self._waiting, *self._running)}
        self._served = Counter({t: n for t, n in self._served.items() if t in present})
        self._forget_at = KEPT + 2 * len(self._served)


class Lpm(Fcfs):
    """Longest prefix match first, but a sequence passed over MAX_PASSES times goes before.

    A bound on passes, not a bonus in tokens: a bonus larger than the shared prefixes turns the
    order back into arrival order, and a small one lets a cold request starve. Only the WINDOW
    that came first are put in order; the others follow as they came.
    """

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        first = list(islice(self._waiting, WINDOW))
        first.sort(key=lambda s: (s.passed_over < MAX_PASSES, -cached_tokens(s)))
        rest = list(islice(self._waiting, WINDOW, None))
        yield from first
        yield from rest

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        count_passed(self._waiting, sequence)
        super().admit(sequence, num_cached)

    def explain(self, sequence: Sequence) -> str:
        return (
            f"longest cached prefix first: it was passed over {sequence.passed_over} times, and "
            f"goes first after {MAX_PASSES}"
        )


def count_passed(waiting: Iterable[Sequence], admitted: Sequence) -> None:
    """Those that came before the admitted one were passed over once more."""
    for earlier in waiting:
        if earlier is admitted:
            return
        earlier.passed_over += 1
