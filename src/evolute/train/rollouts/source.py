"""Which problems come next: a seeded stream that can start at any step.

Step k's problems depend on (task, seed, k) only, so a resumed run sees what the uninterrupted
one would have seen. The pool is walked in a new order on each pass.
"""

from __future__ import annotations

import random

from evolute.types import ConfigError, Problem, Task

POOL = 2048


class ProblemSource:
    """`batch(step)` gives the problems of one step."""

    def __init__(self, task: Task, per_step: int, seed: int) -> None:
        self._per_step, self._seed = per_step, seed
        self._pool = _largest_pool(task, per_step, seed)

    def batch(self, step: int) -> list[Problem]:
        """`per_step` problems; different ones within a pass over the pool."""
        size, first = len(self._pool), step * self._per_step
        return [self._pick(first + i, size) for i in range(self._per_step)]

    def _pick(self, number: int, size: int) -> Problem:
        order = list(range(size))
        random.Random(f"{self._seed}/{number // size}").shuffle(order)
        return self._pool[order[number % size]]


def _largest_pool(task: Task, per_step: int, seed: int) -> list[Problem]:
    count = POOL
    while True:
        try:
            return task.problems("train", count, seed)
        except ConfigError:
            if count // 2 < per_step:
                raise
            count //= 2  # a small family
