"""What has every puzzle in common: a question, a gold answer, a verifier, options in its name.

PuzzleTask(name, draw, grade)       a Task; nothing of a problem is kept but its text and gold
read_options(name, defaults)        "dates?form=iso" -> {"form": "iso"}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from evolute.envs.base import Draw, TextEnv, draw_problems
from evolute.types import ConfigError, Env, Problem
from evolute.types.settings import nearest

GradeAnswer = Callable[[str, str, str], bool]  # question, gold, answer
Options = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class PuzzleTask:
    """A family of puzzles. `check` names a verifier that needs no gold answer (`checks.py`)."""

    name: str
    draw: Draw
    grade: GradeAnswer
    max_new_tokens: int = 48
    check: str = ""

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        found = draw_problems(self.name, self.draw, split, count, seed)
        extras = {"check": self.check} if self.check else {}
        return [replace(problem, extras=extras) for problem in found]

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: float(self.grade(problem.id, problem.gold, action)))


def read_options(name: str, defaults: Options) -> dict[str, str | int]:
    """Options behind the question mark, over `defaults`, which also give their types.

    Raises ConfigError for an unknown option, one given twice, or one that is no number.
    """
    family, _, text = name.partition("?")
    found: dict[str, str | int] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in defaults:
            raise ConfigError(f"task {family!r} has no option {key!r}. {nearest(key, defaults)}")
        if key in found:
            raise ConfigError(f"option {key!r} of task {family!r} is given twice; keep one.")
        found[key] = _number(family, key, value) if isinstance(defaults[key], int) else value
    return {**defaults, **found}


def choice(family: str, options: Options, key: str, allowed: Collection[str]) -> str:
    """An option that is one of a few words."""
    value = str(options[key])
    if value not in allowed:
        raise ConfigError(
            f"option {key!r} of task {family!r} is {value!r}; it is one of {', '.join(allowed)}."
        )
    return value


def between(family: str, options: Options, key: str, low: int, high: int) -> int:
    """An option that is a number within bounds."""
    value = int(options[key])
    if not low <= value <= high:
        raise ConfigError(
            f"option {key!r} of task {family!r} is {value}; it must lie in [{low}, {high}]."
        )
    return value


# -- internals ---------------------------------------------------------------


def _number(family: str, key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(
            f"option {key!r} of task {family!r} is {value!r}; it must be a whole number."
        ) from None
