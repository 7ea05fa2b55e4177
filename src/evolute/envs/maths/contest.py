"""Contest problems as in AIME: a whole number from 0 to 999, on the line `Answer: ...`.

    contest_task("contest-maths?tier=1")

Tier 1 has small numbers and one idea; 2 has two-digit ones; 3 is near the contest's own. The reward
is +1 or -1, as in skyrl-gym's `aime`. Answers are counted out, not derived.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evolute.envs.base import draw_problems
from evolute.envs.maths.minerva import is_right
from evolute.envs.puzzles.task import between, read_options
from evolute.types import Env, Message, Problem, StepResult

FAMILY = "contest-maths"
ASK = "The answer is a whole number from 0 to 999. End with a line\nAnswer: NUMBER"
Drawn = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ContestTask:
    name: str
    tier: int
    max_new_tokens: int = 192

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        return draw_problems(self.name, partial(draw, self.tier), split, count, seed)

    def make(self, problem: Problem) -> Env:
        return Contest(problem.gold.removeprefix("Answer: "))


class Contest:
    """One answer."""

    def __init__(self, gold: str) -> None:
        self._gold = gold

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        right = is_right(action, self._gold)
        return StepResult(reward=1.0 if right else -1.0, metadata={"accuracy": float(right)})

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {}


def contest_task(name: str) -> ContestTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, {"tier": 1})
    return ContestTask(name, between(FAMILY, options, "tier", 1, 3))


def draw(tier: int, source: random.Random) -> tuple[str, str]:
    """A question, and its answer line."""
    while True:
        text, answer = source.choice(KINDS)(source, (0, 12, 60, 400)[tier])
        if 0 <= answer <= 999:
            return f"{text}\n{ASK}", f"Answer: {answer}"


# -- internals ---------------------------------------------------------------


def _power(r: random.Random, size: int) -> Drawn:
    base, exponent, modulus = r.randint(2, size), r.randint(2, size), r.randint(3, size)
    text = f"Find the remainder when {base}^{exponent} is divided by {modulus}."
    return text, pow(base, exponent, modulus)


def _divisors(r: random.Random, size: int) -> Drawn:
    n = r.randint(4, size * size // 2)
    text = f"How many positive divisors does {n} have?"
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return text, 2 * len(small) - (small[-1] ** 2 == n)


def _multiples(r: random.Random, size: int) -> Drawn:
    a, b = r.sample(range(2, max(5, size // 4)), 2)
    n = r.randint(size, 5 * size)
    text = f"How many whole numbers from 1 to {n} are multiples of {a} but not of {b}?"
    return text, sum(k % a == 0 and k % b != 0 for k in range(1, n + 1))


def _series(r: random.Random, size: int) -> Drawn:
    first, step, count = r.randint(1, size), r.randint(1, size), r.randint(3, size)
    total = sum(first + k * step for k in range(count))
    text = (
        f"An arithmetic sequence begins with {first} and each term is {step} more than the one "
        f"before. Find the remainder when the sum of its first {count} terms is divided by 1000."
    )
    return text, total % 1000


def _roots(r: random.Random, size: int) -> Drawn:
    p, q = r.randint(1, size), r.randint(1, size)
    text = (
        f"The equation x^2 - {p + q}x + {p * q} = 0 has two roots (counted with multiplicity). "
        "What is the sum of their squares?"
    )
    return text, p * p + q * q


def _common(r: random.Random, size: int) -> Drawn:
    a, b = r.randint(2, 3 * size), r.randint(2, 3 * size)
    text = f"What is the greatest common divisor of {a} and {b}?"
    return text, math.gcd(a, b)


def _remainders(r: random.Random, size: int) -> Drawn:
    a, b = r.sample([p for p in (2, 3, 5, 7, 11, 13, 17, 19, 23) if p <= max(5, size // 3)], 2)
    x, y = r.randrange(a), r.randrange(b)
    answer = next(n for n in range(1, a * b + 1) if n % a == x and n % b == y)
    text = (
        f"Find the least positive integer that leaves remainder {x} when divided by {a} and "
        f"remainder {y} when divided by {b}."
    )
    return text, answer


def _paths(r: random.Random, size: int) -> Drawn:
    limit = 3 if size < 20 else 6
    right, up = r.randint(1, limit), r.randint(1, limit)
    text = f"How many paths lead from (0, 0) to ({right}, {up}) by steps of 1 to the right or 1 up?"
    return text, math.comb(right + up, up)


def _digits(r: random.Random, size: int) -> Drawn:
    n, total = r.randint(size, 20 * size), r.randint(2, 12)
    text = f"How many whole numbers from 1 to {n} have digits that add up to {total}?"
    return text, sum(sum(map(int, str(k))) == total for k in range(1, n + 1))


KINDS: tuple[Callable[[random.Random, int], Drawn], ...] = (
    _power, _divisors, _multiples, _series, _roots, _common, _remainders, _paths, _digits,
)  # fmt: skip
