"""How good is a method, and what does it cost?

await evaluate_method(task, method, count=...) -> MethodReport

Each problem has an account of its own; the task's world grades `Solution.text`, and each text of
`details["candidates"]` where a method tells them: the share of problems with a right candidate is
what the best choice among them would have (the oracle), and no method sees it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.blocking import run_blocking
from evolute.envs.intervals import Interval, wilson
from evolute.envs.step import read_step
from evolute.lang.account import Account, Budget, Spent
from evolute.reasoning.method import Method, Solution
from evolute.types import BackendError, EpisodeError, OutOfCapacity, Problem, Task

TIMEOUT_S = 120.0
ORACLE = "oracle"  # the method whose answer is the best of its candidates
CANDIDATES = "candidates"


@dataclass(frozen=True, slots=True)
class Graded:
    """One problem. `is_right` is None when model or world failed; `failure` says how."""

    problem: Problem
    solution: Solution | None
    is_right: bool | None
    is_covered: bool | None  # a candidate is right; None: the method tells of none
    spent: Spent
    failure: str = ""


@dataclass(frozen=True, slots=True)
class MethodReport:
    """All problems of a run, in their order."""

    graded: tuple[Graded, ...]
    by_role: dict[str, Spent]

    @property
    def accuracy(self) -> Interval:
        """Wilson's 95 % interval; failed problems are not counted."""
        valid = [one.is_right for one in self.graded if one.is_right is not None]
        return wilson(sum(valid), len(valid))

    @property
    def coverage(self) -> Interval | None:
        known = [one.is_covered for one in self.graded if one.is_covered is not None]
        return wilson(sum(known), len(known)) if known else None

    @property
    def num_failed(self) -> int:
        return sum(one.is_right is None for one in self.graded)

    @property
    def reasons(self) -> dict[str, int]:
        """How solutions came about, by the methods' own words; failures by class of error."""
        words = [one.solution.reason if one.solution else one.failure for one in self.graded]
        return dict(Counter(words).most_common())

    @property
    def spent(self) -> Spent:
        return sum(self.by_role.values(), Spent())


async def evaluate_method(
    task: Task,
    method: Method,
    *,
    count: int = 128,
    seed: int = 0,
    split: str = "heldout",
    budget: Budget | None = None,
    concurrency: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> MethodReport:
    """Solve `count` problems, each within `budget`. A failed model or world ends its problem alone;
    RequestError (settings that cannot work) and cancellation end all."""
    account, gate = Account(), asyncio.Semaphore(concurrency)
    done = 0

    async def one(problem: Problem) -> Graded:
        nonlocal done
        async with gate:
            graded = await _solve(task, method, problem, account.part(problem.id, budget))
        done += 1
        if on_progress:
            on_progress(done)
        return graded

    jobs = [asyncio.create_task(one(problem)) for problem in task.problems(split, count, seed)]
    try:
        graded = tuple(await asyncio.gather(*jobs))
    finally:  # after an error or a cancellation: leave nothing running behind
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    return MethodReport(graded, account.by_role)


async def grade(task: Task, problem: Problem, text: str) -> bool:
    """Whether the world gives the answer its full reward. Raises EpisodeError or TimeoutError when
    the world fails."""

    def play() -> bool:
        env = task.make(problem)
        try:
            env.init(problem.messages)
            step = read_step(env.step(text))
        finally:
            env.close()
        return float(step.metadata.get("accuracy", step.reward)) >= 1.0

    return bool(await run_blocking(play, timeout_s=TIMEOUT_S))


# -- internals ---------------------------------------------------------------


async def _solve(task: Task, method: Method, problem: Problem, account: Account) -> Graded:
    solution: Solution | None = None
    try:
        solution = await method.solve(problem, account)
        covered = await _covered(task, problem, solution.details.get(CANDIDATES))
        if method.name == ORACLE and covered is not None:
            right = covered
        else:
            right = await grade(task, problem, solution.text)
    except (BackendError, OutOfCapacity, EpisodeError, TimeoutError) as error:
        name = type(error).__name__
        return Graded(problem, solution, None, None, account.spent, name)
    return Graded(problem, solution, right, covered, account.spent)


async def _covered(task: Task, problem: Problem, candidates: Any) -> bool | None:
    if not isinstance(candidates, Sequence) or isinstance(candidates, str):
        return None
    texts = [text for text in candidates if isinstance(text, str)]
    for text in dict.fromkeys(texts):  # one world at a time: a sandbox may stand behind it
        if await grade(task, problem, text):
            return True
    return False
