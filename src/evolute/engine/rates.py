"""How much was done in each of the last seconds?

    rates.note(now, counts)              after a step; a few additions
    rates.last(now, seconds) -> list     oldest first, idle seconds as zeros

Times are the loop's monotonic ones. A step counts in the second in which it ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from evolute.engine.counts import Counts

KEPT_S = 600


@dataclass(slots=True)
class Second:
    """What the steps that ended in one second did."""

    at: int  # whole seconds of the monotonic clock
    computed_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: int = 0


class Rates:
    """Seconds with work, the last KEPT_S of them; idle ones take no memory."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=KEPT_S)
        self._seen = Counts()

    def note(self, now: float, counts: Counts) -> None:
        if not self._seconds or self._seconds[-1].at != int(now):
            self._seconds.append(Second(int(now)))
        second, seen = self._seconds[-1], self._seen
        for name in ("computed_tokens", "cached_tokens", "output_tokens", "finished"):
            new = getattr(counts, name)
            setattr(second, name, getattr(second, name) + new - getattr(seen, name))
            setattr(seen, name, new)

    def last(self, now: float, seconds: int) -> list[Second]:
        """The whole seconds before the one that `now` lies in."""
        known = {second.at: second for second in self._seconds}
        return [known.get(at) or Second(at) for at in range(int(now) - seconds, int(now))]
