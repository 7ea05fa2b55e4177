"""What did speculation on an API save, and what did it waste?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SurplusCounts:
    """Exact, save that `tokens_wasted` counts only where tokens can be counted."""

    hits: int = 0  # gens that cost no call of their own
    misses: int = 0  # times that what was written was not what the program says
    tokens_wasted: int = 0  # written and never used
