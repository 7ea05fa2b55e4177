"""What a world is in which a pupil is taught to act, badly.

World(script, phrases, turns, exercise)
pieces(forms)      what stands between the blanks of sentences: phrases of a vocabulary

A script knows the right way and takes it now and then. What it does wrong else is what agents do
wrong: it answers before it looked, it looks and does not mind what it saw, it forgets. No script
makes a call that its tool refuses, so what is left to learn is when to do what. What a pupil cannot
do without, such as copying a word that it has never met, it learns from exercises, which need no
world and cost little.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.bench.pupils.teacher import Call, Script
from evolute.types import Problem

Calls = Generator[Call, str, None]
Talk = list[tuple[str, str]]  # questions and answers; the first question has the text
Exercise = Callable[[Any, Sequence[Problem], random.Random], Talk]
TOLD_OF = 3  # problems an exercise may use
LAST = "last turn"  # in what an agent is told before it


@dataclass(frozen=True, slots=True)
class World:
    """`turns` are the agent's in the lessons, one after the other; an exercise is questions and
    answers about a few problems of the task."""

    script: Script
    phrases: tuple[str, ...]
    turns: tuple[int, ...]
    exercise: Exercise | None = None


def pieces(forms: Iterable[str]) -> Iterable[str]:
    """What stands between the blanks of sentences."""
    for form in forms:
        yield from (piece for piece in re.split(r"\{\w\}", form) if len(piece) > 2)
