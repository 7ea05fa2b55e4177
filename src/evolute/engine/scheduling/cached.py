"""How much of a waiting prompt is cached? The answers, remembered while nothing changes.

    tokens = Remembered(look_up); tokens[sequence] -> look_up(sequence).num_cached

Each admission asks this of all in the policy's window, and most answers are those of the one
before. Whoever knows what may have changed clears it, or pops one.
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.engine.scheduling.sequence import Sequence
from evolute.engine.scheduling.step import Candidate

MOST = 1024  # answers that are kept; the longest queue's windows need fewer


class Remembered(dict[Sequence, int]):
    """A dict, as it costs no call of Python to ask one for what it knows."""

    def __init__(self, look_up: Callable[[Sequence], Candidate]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, sequence: Sequence) -> int:
        if len(self) >= MOST:
            self.clear()
        count = self[sequence] = self._look_up(sequence).num_cached
        return count
