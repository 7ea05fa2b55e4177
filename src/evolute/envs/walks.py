"""Walks: two rules in turn, many times over. Every step is easy and rests on the step before.

    walk_task("walk?times=5-8&modulus=10")
    read_walk(question) -> Walk            the walk back from the text

From a number a walk goes on by two additions or subtractions in turn, modulo `modulus`; what is
asked is where it ends.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from evolute.envs.arithmetic import grade_number
from evolute.envs.base import TextEnv, draw_problems
from evolute.envs.chains import SOLUTION, THOUGHT, compute
from evolute.types import ConfigError, Env, Problem
from evolute.types.settings import nearest

PREFIX = "walk"
WORDS = {"+": "add", "-": "take"}
COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COUNT = "|".join((*COUNTS, r"\d+"))  # what `count_of` writes, as a regular expression
_QUESTION = re.compile(
    r"Begin with (\d+), (add|take) (\d+) and (add|take) (\d+) in turn, "
    rf"({COUNT}) times, mod (\d+)\. What is the end\?"
)
_OPTIONS = {"times": (5, 8), "modulus": (10, 10)}


@dataclass(frozen=True, slots=True)
class Rule:
    """`+` or `-` a number."""

    operation: str
    number: int

    def __str__(self) -> str:
        return f"{WORDS[self.operation]} {self.number}"


@dataclass(frozen=True, slots=True)
class Walk:
    """`times` steps from `start`, by the two rules in turn."""

    start: int
    rules: tuple[Rule, Rule]
    times: int
    modulus: int

    @property
    def values(self) -> tuple[int, ...]:
        """Where it stands: the start, and after each step."""
        found = [self.start % self.modulus]
        for done in range(self.times):
            found.append(self.next(found[-1], done))
        return tuple(found)

    def next(self, value: int, done: int) -> int:
        """Where a step leads when `done` steps came before it."""
        rule = self.rules[done % 2]
        return compute(value, rule.operation, rule.number, self.modulus)

    @property
    def question(self) -> str:
        first, second = self.rules
        return (
            f"Begin with {self.start}, {first} and {second} in turn, {count_of(self.times)} times, "
            f"mod {self.modulus}. What is the end?"
        )


@dataclass(frozen=True, slots=True)
class WalkTask:
    """`times`: least and most steps."""

    name: str = PREFIX
    times: tuple[int, int] = (5, 8)
    modulus: int = 10

    @property
    def max_new_tokens(self) -> int:
        return 128 * self.times[1]

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        return draw_problems(self.name, self._draw, split, count, seed)

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: grade_walk(action, problem.gold))

    def _draw(self, source: random.Random) -> tuple[str, str]:
        walk = draw_walk(source, self.times, self.modulus)
        return walk.question, str(walk.values[-1])


def walk_task(name: str) -> WalkTask:
    """A task by its name with options. Raises ConfigError for one that cannot be."""
    found = dict(_OPTIONS)
    for part in filter(None, name.partition("?")[2].split("&")):
        key, _, value = part.partition("=")
        if key not in found:
            raise ConfigError(f"{PREFIX} has no option {key!r}. {nearest(key, found)}")
        ends = value.split("-")
        if len(ends) not in (1, 2) or not all(end.isdigit() for end in ends):
            raise ConfigError(f"{PREFIX}: {key} is {value!r}; write a number, or LOW-HIGH.")
        found[key] = (int(ends[0]), int(ends[-1]))
    times, modulus = found["times"], found["modulus"][0]
    if not 1 <= times[0] <= times[1] or modulus < 3:
        raise ConfigError(f"{name!r}: times are at least 1, low to high; modulus is at least 3.")
    return WalkTask(name, times, modulus)


def draw_walk(rng: random.Random, times: tuple[int, int], modulus: int) -> Walk:
    """A walk at random; start and numbers lie below the modulus, the numbers above 0."""
    first, second = (Rule(rng.choice("+-"), rng.randrange(1, modulus)) for _ in range(2))
    return Walk(rng.randrange(modulus), (first, second), rng.randint(*times), modulus)


def read_walk(question: str) -> Walk:
    """The walk that a question tells of. Raises ValueError when it tells of none."""
    found = _QUESTION.search(question)
    if not found:
        raise ValueError(f"{question!r} is no walk")
    signs = {word: sign for sign, word in WORDS.items()}
    rules = Rule(signs[found[2]], int(found[3])), Rule(signs[found[4]], int(found[5]))
    return Walk(int(found[1]), rules, read_count(found[6]), int(found[7]))


def count_of(number: int) -> str:
    """A number of steps in words (up to ten): digits are then only what is reckoned."""
    return COUNTS[number] if number < len(COUNTS) else str(number)


def read_count(text: str) -> int:
    """The number that `count_of` wrote. Raises ValueError for another word."""
    return COUNTS.index(text) if text in COUNTS else int(text)


def grade_walk(action: str, gold: str) -> float:
    """1 if the last number of the solution block is the gold one; a thought without a solution is
    no answer, a text without tags is all of it."""
    if SOLUTION in action:
        return grade_number(action.rpartition(SOLUTION)[2], gold)
    return 0.0 if THOUGHT in action else grade_number(action, gold)
