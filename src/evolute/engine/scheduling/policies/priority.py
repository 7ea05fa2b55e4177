"""The highest priority first; arrival order among equals.

Priority    a much higher one takes the place of a running one
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from evolute.engine.scheduling.policies.ageing import Waiting, in_turn, put
from evolute.engine.scheduling.policies.arrival import Fcfs
from evolute.engine.scheduling.policies.policy import IsReady, anyone
from evolute.engine.scheduling.sequence import Sequence

GAP = 10  # a waiting sequence this much above a running one takes its place


class Priority(Fcfs):
    """Numbers are the callers'; with only high ones arriving, the low ones wait for ever."""

    is_strict = True

    def __init__(self) -> None:
        super().__init__()
        self._queues: dict[int, Waiting] = {}  # by priority
        self._levels: list[int] = []  # priorities with somebody waiting, negated, in order

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        super().push(sequence, front=front)
        if sequence.priority not in self._queues:
            self._queues[sequence.priority] = OrderedDict()
            bisect.insort(self._levels, -sequence.priority)
        put(self._queues[sequence.priority], sequence, front=front)

    def victim(self, running: Iterable[Sequence], is_ready: IsReady = anyone) -> Sequence | None:
        latest = reversed(list(running))
        lowest = min(latest, key=lambda s: (s.priority, s.num_generated), default=None)
        if not self._levels or lowest is None or -self._levels[0] - lowest.priority < GAP:
            return None
        return lowest

    def turn(self, sequence: Sequence) -> float:
        return float(-sequence.priority)

    def explain(self, sequence: Sequence) -> str:
        before = sum(len(q) for n, q in self._queues.items() if n > sequence.priority)
        return f"highest priority first: {before} wait with more than its {sequence.priority}"

    def _turns(self) -> Iterator[Sequence]:
        for negated in self._levels:
            yield from in_turn(self._queues[-negated], newest_first=self.newest_first)

    def _count_passed(self, sequence: Sequence) -> None:
        """Being passed over changes nothing here."""

    def _take(self, sequence: Sequence) -> None:
        super()._take(sequence)
        queue = self._queues[sequence.priority]
        del queue[sequence]
        if not queue:
            del self._queues[sequence.priority]
            del self._levels[bisect.bisect_left(self._levels, -sequence.priority)]
