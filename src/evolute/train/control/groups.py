"""What passes between the two sides of a run: a problem, its rollouts, what a step uses.

Row      which problem of the stream, and how often it was played in vain
Group    its rollouts, finished
Batch    what one step uses
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolute.types import Problem, Rollout

Key = tuple[int, int]  # row, attempt


@dataclass(frozen=True, slots=True)
class Row:
    """Problem number `number` of the run's stream; a synchronous run plays it in step
    number // prompts_per_step. `attempt` counts how often it was played in vain."""

    number: int
    attempt: int = 0

    @property
    def key(self) -> Key:
        return self.number, self.attempt


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of a row. `tag` is the version of the weights when it began."""

    row: Row
    problem: Problem
    tag: int
    rollouts: tuple[Rollout, ...]

    @property
    def oldest(self) -> int:
        """The oldest version that sampled one of its tokens."""
        versions = (v.version for r in self.rollouts for s in r.samples for v in s.weight_versions)
        return min(versions, default=self.tag)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step trains on. `played` are all rollouts, by group; `chosen` those that count,
    with groups renumbered from 0."""

    step: int
    problems: Sequence[Problem]  # by group of `played`
    played: list[Rollout]
    chosen: list[Rollout]
    begun_s: float  # when the step began to wait for it
    had_s: float  # when it was there
    used: Sequence[Key] = ()  # rows that count as trained
    dropped: Sequence[Key] = ()
    requeued: Sequence[Key] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
