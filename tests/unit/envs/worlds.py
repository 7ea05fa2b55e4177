"""Worlds and tasks for these tests."""

from dataclasses import dataclass
from typing import Any

from evolute.types import Problem, StepResult


@dataclass
class OneWorld:
    """A task whose every episode is played in the world that `build` makes."""

    build: Any
    name: str = "one-world"
    max_new_tokens: int = 64

    def problems(self, split, count, seed=0):
        return [problem(f"q{i}") for i in range(count)]

    def make(self, problem):
        return self.build()


class World:
    """Gives the listed answers in turn; an exception among them is raised."""

    def __init__(self, *answers, metrics=None):
        self.answers, self.actions, self.closed = list(answers), [], 0
        self.metrics = metrics or {}

    def init(self, prompt):
        return list(prompt), {}

    def step(self, action):
        self.actions.append(action)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        self.closed += 1

    def get_metrics(self):
        return self.metrics


def problem(text="q"):
    return Problem(text, ({"role": "user", "content": text},), "gold")


def said(text, **rest):
    """An answer that goes on."""
    return StepResult(({"role": "user", "content": text},), done=False, **rest)
