"""The seam between a world with rewards and whoever acts in it (skyrl-gym's interface)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from evolute.types.request import Message


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the world answers to one action of the model."""

    observations: tuple[Message, ...] = ()  # appended to the conversation; may be empty
    reward: float = 0.0
    done: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
    postprocessed_action: str | None = None  # replaces the model's text in the conversation


@runtime_checkable
class Env(Protocol):
    """One episode. Built anew for each rollout; `close` is always called."""

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]: ...
    def step(self, action: str) -> StepResult: ...
    def close(self) -> None: ...
    def get_metrics(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One task to solve: a row of a data set.

    `id` is stable and unique in its task, so splits can be checked to be disjoint.
    """

    id: str
    messages: tuple[Message, ...]
    gold: str  # an action that earns the full reward
    extras: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """A family of problems with its world. `problems` is deterministic in (split, seed)."""

    @property
    def name(self) -> str: ...
    @property
    def max_new_tokens(self) -> int: ...  # what an answer needs
    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]: ...
    def make(self, problem: Problem) -> Env: ...
