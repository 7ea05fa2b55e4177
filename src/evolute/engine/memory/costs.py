"""Is copying pages back cheaper than computing their tokens again?

    prefers_copy(pages, tokens) -> bool
    copied(pages, seconds), computed(tokens, seconds)     what was measured
    declined()                                            somebody computed what a copy would give

Both rates are running averages. A copy is preferred while one of them is unknown, and once in
PROBE_EVERY declined times, since a rate that nobody measures any more cannot get better.
"""

from __future__ import annotations

from typing import Literal

RestoreName = Literal["measured", "always", "never"]
WEIGHT = 0.1  # of the newest measurement
MEASURED_TOKENS = 32  # a step of fewer is bound by reading the weights and says nothing of prompts
PROBE_EVERY = 16


class Costs:
    """Seconds of a page copied back, and of a prompt token computed; None: not measured yet."""

    def __init__(self, restore: RestoreName = "measured") -> None:
        self.page_s: float | None = None
        self.token_s: float | None = None
        self.num_declined = 0
        self._restore = restore

    def prefers_copy(self, pages: int, tokens: int) -> bool:
        """Of `pages` pages that hold `tokens` tokens. The answer changes nothing."""
        if self._restore != "measured":
            return self._restore == "always"
        if self.page_s is None or self.token_s is None:
            return True
        if self.num_declined % PROBE_EVERY == PROBE_EVERY - 1:
            return True
        return pages * self.page_s < tokens * self.token_s

    def copied(self, pages: int, seconds: float) -> None:
        if pages:
            self.page_s = _average(self.page_s, seconds / pages)
            self.num_declined = 0

    def computed(self, tokens: int, seconds: float) -> None:
        """Of one step, without the time it spent copying."""
        if tokens >= MEASURED_TOKENS:
            self.token_s = _average(self.token_s, seconds / tokens)

    def declined(self) -> None:
        self.num_declined += 1


# -- internals ---------------------------------------------------------------


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + WEIGHT * (now - before)
