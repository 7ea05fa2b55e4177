"""Whose first token would come too late, and who goes first when not all can be in time?

    Deadlines()     add(item, due_s), drop(item), late(now_s, need_s, most_s) -> items
    Overload()      look(num_waiting) -> serve the newest first?    admitted(count, num_left)
    Pace()          note(seconds, tokens), need_s(tokens, budget)
    Rate()          note(now_s, count), per_s(now_s)

S-LoRA's admission control (Sheng et al. 2023, section 6; appendix B): who can no longer be in
time is dropped, as computing it would make others late too. When more arrive between two
admissions than an admission takes, as both were of late, the newest go first: the satisfaction of
a first token falls with its age, so of those that can be served the newest count most.

Pure: times are the caller's. The engine's loop and the simulator of S-LoRA's tables share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from evolute.engine.scheduling.ordered import Ordered

T = TypeVar("T")
NEW, OLD = 0.7, 0.3  # weights of what is seen now and of what was seen before
DECAY = 0.9  # of what `Pace` has seen, with each step


class Deadlines(Generic[T]):
    """Items that wait, by the moment at which their first token is due."""

    def __init__(self) -> None:
        self._due: Ordered[T] = Ordered()

    def add(self, item: T, due_s: float) -> None:
        self._due.put(item, due_s)

    def drop(self, item: T) -> None:
        self._due.discard(item)

    def late(self, now_s: float, need_s: Callable[[T], float], most_s: float) -> list[T]:
        """Those that would be too late if they were admitted now, as their first token takes
        `need_s` from there, `most_s` at most. They are dropped."""
        found = []
        for due_s, item in self._due.walk():
            if now_s + most_s < due_s:
                break
            if now_s + need_s(item) >= due_s:
                found.append(item)
        for item in found:
            self._due.discard(item)
        return found

    def next_due_s(self) -> float | None:
        first = self._due.first()
        return None if first is None else float(first[0])

    def __len__(self) -> int:
        return len(self._due)


@dataclass(slots=True)
class Overload:
    """Smoothed numbers of arrivals between two admissions, and of requests in one. Whole numbers,
    cut off as in S-LoRA's artifact, whose tables are to come out."""

    arrivals: int = 1
    admissions: int = 1
    num_left: int = 0  # waiting, after the last admission

    def look(self, num_waiting: int) -> bool:
        """Before an admission: do more arrive than are served?"""
        self.arrivals = int(NEW * (num_waiting - self.num_left) + OLD * self.arrivals)
        return self.arrivals >= self.admissions

    def admitted(self, count: int, num_left: int) -> None:
        """After one that took `count` > 0."""
        self.num_left = num_left
        self.admissions = max(int(NEW * count + OLD * self.admissions), 1)


@dataclass(slots=True)
class Pace:
    """How long a step takes, and each token in it: a line fitted to the steps of late, newer ones
    counting more. Steps that are all alike tell nothing of tokens: then only the step counts."""

    weight: float = 0.0
    seconds: float = 0.0  # this and the following are sums
    tokens: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def note(self, seconds: float, tokens: int) -> None:
        self.weight = DECAY * self.weight + 1
        self.seconds = DECAY * self.seconds + seconds
        self.tokens = DECAY * self.tokens + tokens
        self.squares = DECAY * self.squares + tokens**2
        self.products = DECAY * self.products + tokens * seconds

    def need_s(self, tokens: int, budget: int) -> float:
        """Of a prompt's `tokens` that are computed `budget` a step. 0 before anything is known."""
        if not self.weight:
            return 0.0
        token_s = self._token_s()
        step_s = max(self.seconds - token_s * self.tokens, 0.0) / self.weight
        return step_s * -(-tokens // max(budget, 1)) + token_s * tokens

    def _token_s(self) -> float:
        spread = self.squares * self.weight - self.tokens**2
        if spread < 1e-9 * max(self.squares * self.weight, 1.0):
            return 0.0
        return max(self.products * self.weight - self.tokens * self.seconds, 0.0) / spread


@dataclass(slots=True)
class Rate:
    """Events a second, those of the last `span_s` counting most."""

    span_s: float = 10.0
    level: float = 0.0
    at_s: float = 0.0

    def note(self, now_s: float, count: int) -> None:
        self.level = self._faded(now_s) + count
        self.at_s = now_s

    def per_s(self, now_s: float) -> float:
        return self._faded(now_s) / self.span_s

    def _faded(self, now_s: float) -> float:
        return self.level * math.exp(-max(now_s - self.at_s, 0.0) / self.span_s)
