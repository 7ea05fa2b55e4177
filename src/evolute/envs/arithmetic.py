"""Sums and products, graded on the number itself.

addition-1, addition-2, addition-3, subtraction-2, multiplication-1, multiplication-2, chain-2
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from evolute.envs.base import Draw, TextEnv, draw_problems
from evolute.types import Env, Problem

FORM = "Answer with the number only."
NUMBER = re.compile(r"-?\d+(?:,\d{3})*")


@dataclass(frozen=True, slots=True)
class ArithmeticTask:
    """Problems "What is A + B?". Correct when the last number of the answer is the result."""

    name: str
    draw: Draw
    max_new_tokens: int = 12

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        return draw_problems(self.name, self.draw, split, count, seed)

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: grade_number(action, problem.gold))


def grade_number(action: str, gold: str) -> float:
    """1 if the last number of the text is the gold one, else 0."""
    numbers = NUMBER.findall(action)
    return float(bool(numbers) and int(numbers[-1].replace(",", "")) == int(gold))


def arithmetic_tasks() -> dict[str, ArithmeticTask]:
    """All tasks of this file by name."""
    draws: dict[str, Draw] = {f"addition-{n}": _binary("+", n) for n in (1, 2, 3)}
    draws |= {"subtraction-2": _binary("-", 2)}
    draws |= {f"multiplication-{n}": _binary("*", n) for n in (1, 2)}
    draws |= {"chain-2": _chain}
    return {name: ArithmeticTask(name, draw) for name, draw in draws.items()}


# -- internals ---------------------------------------------------------------


def _binary(sign: str, digits: int) -> Draw:
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1

    def draw(source: random.Random) -> tuple[str, str]:
        a, b = source.randint(low, high), source.randint(low, high)
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        return f"What is {a} {sign} {b}? {FORM}", str(result)

    return draw


def _chain(source: random.Random) -> tuple[str, str]:
    a, b, c = (source.randint(10, 99) for _ in range(3))
    return f"What is {a} + {b} - {c}? {FORM}", str(a + b - c)
