"""Accuracy on held-out problems, with its uncertainty.

evaluate(task, backend, count=...) -> Accuracy       Wilson 95 % interval
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from evolute.envs.episode import run_episode
from evolute.envs.intervals import Interval, wilson
from evolute.types import Backend, Outcome, Problem, Rollout, SamplingParams, Task


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of problems answered correctly; failed episodes are not counted."""

    interval: Interval
    n: int
    correct_by_problem: dict[str, bool]
    num_failed: int
    rollouts: tuple[Rollout, ...]  # in the order of the problems

    @property
    def failures(self) -> dict[str, int]:
        """Failed episodes by class of error."""
        return dict(Counter(r.failure for r in self.rollouts if r.failure))


async def evaluate(
    task: Task,
    backend: Backend,
    *,
    count: int = 200,
    seed: int = 0,
    split: str = "heldout",
    adapter: str | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 0,
    concurrency: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> Accuracy:
    """Answer `count` problems once each; `on_progress` is told how many are done. An answer may
    have `max_new_tokens` tokens, 0: as many as the task says.

    RequestError (settings that cannot work) and cancellation end all episodes.
    """
    problems = task.problems(split, count, seed)
    length = max_new_tokens or task.max_new_tokens
    sampling = SamplingParams(max_new_tokens=length, temperature=temperature)
    gate = asyncio.Semaphore(concurrency)
    done = 0

    async def one(problem: Problem) -> Rollout:
        nonlocal done
        async with gate:
            rollout = await run_episode(
                task, problem, backend, sampling, adapter=adapter, seed=seed
            )
        done += 1
        if on_progress:
            on_progress(done)
        return rollout

    episodes = [asyncio.create_task(one(problem)) for problem in problems]
    try:
        rollouts = tuple(await asyncio.gather(*episodes))
    finally:  # after an error or a cancellation: leave nothing running behind
        for episode in episodes:
            episode.cancel()
        await asyncio.gather(*episodes, return_exceptions=True)
    valid = [r for r in rollouts if r.outcome is not Outcome.FAILED]
    correct = {r.problem_id: r.metrics["accuracy"] >= 1.0 for r in valid}
    interval = wilson(sum(correct.values()), len(correct))
    return Accuracy(interval, len(correct), correct, len(rollouts) - len(valid), rollouts)
