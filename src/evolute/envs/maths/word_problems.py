"""Word problems as in GSM8K: a story in steps, the answer behind `####`.

    word_problem_task("word-problems?steps=2-3&size=20&turns=1")

`steps` events change how much somebody has; numbers lie up to `size`. With `turns` > 1 the world is
skyrl-gym's `gsm8k_multi_turn`: a wrong answer in the right form earns 0.2 / turns and the model is
asked again; the right one earns 1 and ends. With one turn only the right answer earns anything.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evolute.envs.base import draw_problems
from evolute.envs.puzzles.task import Options, between, read_options
from evolute.types import ConfigError, Env, Message, Problem, StepResult

FAMILY = "word-problems"
DEFAULTS: Options = {"steps": "2-3", "size": 20, "turns": 1}
FORM_SHARE = 0.2
AGAIN = "That is not right. Work step by step and end with the answer as: #### NUMBER"
LAST = "That is not right. This is the last try. Give only the answer as: #### NUMBER"
PEOPLE = ("Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ines", "Jon", "Kim", "Lea", "Milo",
          "Nora", "Otto", "Pia", "Quin", "Rosa", "Sam", "Tess", "Uma", "Vera", "Will")  # fmt: skip
THINGS = ("apples", "marbles", "stickers", "coins", "books", "shells", "pencils", "beads", "cards",
          "stamps", "buttons", "cookies", "flowers", "balloons", "blocks", "ribbons")  # fmt: skip
_ANSWER = re.compile(r"####\s*\$?\s*(-?[\d,]*\.?\d+)")
Step = tuple[str, str, int]  # what happens, the sum that it needs, what there is then


@dataclass(frozen=True, slots=True)
class WordProblemTask:
    name: str
    steps: tuple[int, int]
    size: int
    turns: int

    @property
    def max_new_tokens(self) -> int:
        return 32 + 32 * self.steps[1]

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        return draw_problems(self.name, partial(draw, self.steps, self.size), split, count, seed)

    def make(self, problem: Problem) -> Env:
        return WordProblem(answer_of(problem.gold) or "", self.turns)


class WordProblem:
    """One episode of up to `turns` tries."""

    def __init__(self, gold: str, turns: int) -> None:
        self._gold, self._turns, self.turns = gold, turns, 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        given = answer_of(action)
        is_right = given is not None and given == self._gold
        has_form = given is not None and self._turns > 1
        reward = 1.0 if is_right else FORM_SHARE / self._turns * has_form
        if is_right or self.turns >= self._turns:
            return StepResult(reward=reward, metadata={"accuracy": float(is_right)})
        hint = LAST if self.turns == self._turns - 1 else AGAIN
        return StepResult(({"role": "user", "content": hint},), reward, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"tries": float(self.turns)}


def word_problem_task(name: str) -> WordProblemTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, DEFAULTS)
    return WordProblemTask(
        name,
        span(FAMILY, options, "steps", 1, 8),
        between(FAMILY, options, "size", 5, 1000),
        between(FAMILY, options, "turns", 1, 20),
    )


def answer_of(text: str) -> str | None:
    """The last number behind `####`: commas, a dollar, a zero fraction dropped. None: no such
    form."""
    found = _ANSWER.findall(text)
    if not found:
        return None
    number: str = found[-1].replace(",", "")
    whole, point, fraction = number.partition(".")
    number = whole if point and not fraction.strip("0") else number
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    digits = digits.lstrip("0") or "0"
    return sign + digits if digits != "0" else "0"


def span(family: str, options: Options, key: str, low: int, high: int) -> tuple[int, int]:
    """An option that is a number or LOW-HIGH."""
    first, _, last = str(options[key]).partition("-")
    ends = (first, last or first)
    if not all(end.isdigit() for end in ends) or not low <= int(ends[0]) <= int(ends[1]) <= high:
        raise ConfigError(
            f"option {key!r} of task {family!r} is {options[key]!r}; it is a number, or LOW-HIGH, "
            f"from {low} to {high}."
        )
    return int(ends[0]), int(ends[1])


def draw(steps: tuple[int, int], size: int, source: random.Random) -> tuple[str, str]:
    """A question, and a solution that ends with its answer."""
    person, other = source.sample(PEOPLE, 2)
    thing = source.choice(THINGS)
    has = source.randint(2, size)
    told, sums = [f"{person} has {has} {thing}."], []
    for _ in range(source.randint(*steps)):
        happens, needed, has = source.choice(EVENTS)(source, person, other, thing, has, size)
        told.append(happens)
        sums.append(needed)
    told.append(f"How many {thing} does {person} have now?")
    told.append("Work step by step and end with the answer as: #### NUMBER")
    return " ".join(told), "\n".join([*sums, f"#### {has}"])


# -- internals ---------------------------------------------------------------


def _more(r: random.Random, who: str, other: str, what: str, has: int, size: int) -> Step:
    n = r.randint(1, size)
    way = r.choice((f"{who} buys {n} more {what}.", f"{other} gives {who} {n} {what}."))
    return way, f"{has} + {n} = {has + n}", has + n


def _fewer(r: random.Random, who: str, other: str, what: str, has: int, size: int) -> Step:
    if has < 2:
        return _more(r, who, other, what, has, size)
    n = r.randint(1, min(size, has - 1))
    way = r.choice((f"{who} loses {n} of them.", f"{who} gives {n} of them to {other}."))
    return way, f"{has} - {n} = {has - n}", has - n


def _bags(r: random.Random, who: str, other: str, what: str, has: int, size: int) -> Step:
    bags, each = r.randint(2, 5), r.randint(2, max(2, size // 3))
    new = bags * each
    told = f"{who} finds {bags} bags with {each} {what} in each."
    return told, f"{bags} * {each} = {new}, {has} + {new} = {has + new}", has + new


def _times(r: random.Random, who: str, other: str, what: str, has: int, size: int) -> Step:
    if has > 20 * size:
        return _fewer(r, who, other, what, has, size)
    word, n = r.choice((("doubles", 2), ("triples", 3)))
    return f"Then the number {word}.", f"{has} * {n} = {has * n}", has * n


def _share(r: random.Random, who: str, other: str, what: str, has: int, size: int) -> Step:
    parts = [n for n in (2, 3, 4, 5) if has % n == 0 and has > n]
    if not parts:
        return _more(r, who, other, what, has, size)
    n = r.choice(parts)
    told = f"{who} sorts them into {n} equal piles and keeps only one pile."
    return told, f"{has} / {n} = {has // n}", has // n


EVENTS: tuple[Callable[..., Step], ...] = (_more, _fewer, _bags, _times, _share)
