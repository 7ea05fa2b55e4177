"""Does the second pass cost less than the first, and what grows meanwhile?

await one_pass(method, task, problems) -> Pass      one pass over fresh problems
by_world(task) -> verify                               the task's own world
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from evolute.envs.intervals import wilson
from evolute.lang.account import Account, Spent
from evolute.reasoning.method import Method
from evolute.reasoning.thought_buffer.method import by_world
from evolute.types import Problem, Task


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over some problems gave and cost."""

    right: int
    count: int
    spent: Spent
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.right / max(self.count, 1)

    def figures(self, title: str) -> dict[str, float]:
        """By name; tokens and calls are a problem's mean, `low` and `high` Wilson's 95 %."""
        share = wilson(self.right, self.count)
        return {
            f"{title}/accuracy": self.accuracy,
            f"{title}/low": share.low,
            f"{title}/high": share.high,
            f"{title}/calls": self.spent.calls / max(self.count, 1),
            f"{title}/tokens": self.spent.tokens / max(self.count, 1),
            f"{title}/seconds": self.seconds / max(self.count, 1),
        }


async def one_pass(
    method: Method, task: Task, problems: Sequence[Problem], *, concurrency: int = 1
) -> Pass:
    """In the order of the problems; with a `concurrency` above 1 what grows depends on time."""
    gate, account, verify = asyncio.Semaphore(concurrency), Account(), by_world(task)

    async def one(problem: Problem) -> bool:
        async with gate:
            solution = await method.solve(problem, account)
        return bool(verify(problem, solution.text))

    started = time.monotonic()
    right = await asyncio.gather(*(one(problem) for problem in problems))
    return Pass(sum(right), len(problems), account.spent, time.monotonic() - started)
