"""Accuracy on held-out problems, with its uncertainty.

evaluate(task, backend, count=...) -> Accuracy       Wilson 95 % interval
paired_difference(before, after) -> Interval         on the same problems, bootstrap
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evolute.envs.episode import run_episode
from evolute.types import Backend, Outcome, Problem, Rollout, SamplingParams, Task

Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of problems answered correctly; failed episodes are not counted."""

    interval: Interval
    n: int
    correct_by_problem: dict[str, bool]
    num_failed: int
    rollouts: tuple[Rollout, ...]


async def evaluate(
    task: Task,
    backend: Backend,
    *,
    count: int = 200,
    seed: int = 0,
    split: str = "heldout",
    adapter: str | None = None,
    temperature: float = 0.0,
    concurrency: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> Accuracy:
    """Answer `count` problems once each."""
    problems = task.problems(split, count, seed)
    sampling = SamplingParams(max_new_tokens=task.max_new_tokens, temperature=temperature)
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

    rollouts = tuple(await asyncio.gather(*map(one, problems)))
    valid = [r for r in rollouts if r.outcome is not Outcome.FAILED]
    correct = {r.problem_id: r.reward >= 1.0 for r in valid}
    interval = wilson(sum(correct.values()), len(correct))
    return Accuracy(interval, len(correct), correct, len(rollouts) - len(valid), rollouts)


def wilson(successes: int, n: int) -> Interval:
    """Wilson score interval of a share; (0, 0, 1) without data."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    p, z2 = successes / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Interval(p, max(center - half, 0.0), min(center + half, 1.0))


def paired_difference(
    before: dict[str, bool], after: dict[str, bool], *, resamples: int = 4000, seed: int = 0
) -> Interval:
    """Accuracy after minus before, over the problems that both answered."""
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Interval(0.0, -1.0, 1.0)
    gains = np.array([after[p] - np.float64(before[p]) for p in shared])
    generator = np.random.default_rng(seed)
    means = generator.choice(gains, (resamples, len(gains))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(gains.mean()), float(low), float(high))
