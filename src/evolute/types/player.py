"""The seam between a training run and whoever plays its problems: an episode, an agent."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from evolute.types.env import Problem
from evolute.types.rollout import Rollout


@runtime_checkable
class Player(Protocol):
    """Plays one problem to its end and says everything that happened as a `Rollout`.

    A failure of the infrastructure is a rollout with outcome FAILED, never an exception; only
    cancellation and RequestError (settings that cannot work) propagate. What was acquired is
    released on every path. Equal arguments and weights give equal rollouts.
    """

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout: ...
