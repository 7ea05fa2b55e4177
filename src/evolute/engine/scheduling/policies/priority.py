"""The highest priority first; arrival order among equals.

Priority    a much higher one takes the place of a running one
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evolute.engine.scheduling.policies.arrival import Fcfs
from evolute.engine.scheduling.policies.policy import CachedTokens
from evolute.engine.scheduling.sequence import Sequence

GAP = 10  # a waiting sequence this much above a running one takes its place


class Priority(Fcfs):
    """Numbers are the callers'; with only high ones arriving, the low ones wait for ever."""

    is_strict = True

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        return iter(sorted(self._waiting, key=lambda s: -s.priority))

    def victim(self, running: Iterable[Sequence]) -> Sequence | None:
        highest = max((s.priority for s in self._waiting), default=None)
        latest = reversed(list(running))
        lowest = min(latest, key=lambda s: (s.priority, s.num_generated), default=None)
        if highest is None or lowest is None or highest - lowest.priority < GAP:
            return None
        return lowest

    def turn(self, sequence: Sequence) -> float:
        return float(-sequence.priority)

    def explain(self, sequence: Sequence) -> str:
        before = sum(s.priority > sequence.priority for s in self._waiting)
        return f"highest priority first: {before} wait with more than its {sequence.priority}"
