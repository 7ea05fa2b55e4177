"""Which problems come next: a seeded stream that can start at any step.

Step k's problems depend on (task, seed, k) only, further ones for it on how many batches came
before, so a resumed run sees what the uninterrupted one would have seen. The pool is walked in a
new order on each pass.
"""

from __future__ import annotations

import random

from evolute.envs.tools import ToolTask
from evolute.types import ConfigError, Problem, Task

POOL = 2048


class ProblemSource:
    """`batch(step)` gives the problems of one step."""

    def __init__(self, task: Task | ToolTask, per_step: int, seed: int) -> None:
        self._per_step, self._seed = per_step, seed
        self._pool = _largest_pool(task, per_step, seed)

    def batch(self, step: int, again: int = 0) -> list[Problem]:
        """`per_step` problems; different ones within a pass over the pool. `again` counts further
        batches for the same step, which come from a stream of their own."""
        size, first = len(self._pool), step * self._per_step
        stream = f"{self._seed}/again-{again}" if again else f"{self._seed}"
        return [self._pick(stream, first + i, size) for i in range(self._per_step)]

    def row(self, number: int) -> Problem:
        """Problem `number` of the stream without further batches: step k's are those from
        k * per_step."""
        return self._pick(f"{self._seed}", number, len(self._pool))

    def _pick(self, stream: str, number: int, size: int) -> Problem:
        order = list(range(size))
        random.Random(f"{stream}/{number // size}").shuffle(order)
        return self._pool[order[number % size]]


def _largest_pool(task: Task | ToolTask, per_step: int, seed: int) -> list[Problem]:
    count = POOL
    while True:
        try:
            return task.problems("train", count, seed)
        except ConfigError:
            if count // 2 < per_step:
                raise
            count //= 2  # a small family
