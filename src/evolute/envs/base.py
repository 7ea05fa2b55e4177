"""Worlds made of text: one question, one or more answers, a reward.

TextEnv(grade, max_turns)      an Env around a grading function
split_of(text)                 which split a problem belongs to: a hash decides
draw_problems(...)             different problems of a split, from a random source
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from evolute.types import ConfigError, Message, Problem, StepResult

SPLITS = ("train", "heldout")
Grade = Callable[[str], float]
Draw = Callable[[random.Random], tuple[str, str]]  # question, answer
PATIENCE = 2000  # draws without a new problem before a family counts as exhausted


class TextEnv:
    """A single-turn world: the answer is graded and the episode ends.

    With `max_turns` > 1 a wrong answer gets `hint` back until the turns are used up.
    """

    def __init__(
        self, grade: Grade, *, max_turns: int = 1, hint: str = "Wrong. Try again."
    ) -> None:
        self._grade, self._max_turns, self._hint = grade, max_turns, hint
        self.turns = 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        reward = self._grade(action)
        if reward >= 1 or self.turns >= self._max_turns:
            return StepResult(reward=reward, metadata={"accuracy": float(reward >= 1)})
        return StepResult(({"role": "user", "content": self._hint},), 0.0, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"turns": float(self.turns)}


def split_of(text: str) -> str:
    """The split of a problem: 80 % train, 20 % heldout, by a hash of its text."""
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.8 else "heldout"


def draw_problems(name: str, draw: Draw, split: str, count: int, seed: int) -> list[Problem]:
    """`count` different problems of a split, the same for the same seed.

    Raises ConfigError when the family is too small for that.
    """
    source = random.Random(f"{name}/{split}/{seed}")
    found: dict[str, Problem] = {}
    vain = 0
    while len(found) < count and vain < PATIENCE:
        question, answer = draw(source)
        vain += 1
        if question not in found and split_of(question) == split:
            found[question] = Problem(question, ({"role": "user", "content": question},), answer)
            vain = 0
    if len(found) < count:
        raise ConfigError(
            f"task {name!r} has only {len(found)} problems in split {split!r}, {count} were asked "
            "for; ask for fewer."
        )
    return list(found.values())
