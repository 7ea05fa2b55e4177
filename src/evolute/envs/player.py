"""An env's episodes as a `types.Player`: what a training run plays when nobody needs stages.

EpisodePlayer(task, backend, sampling).play(problem, group=, index=, seed=) -> Rollout
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.envs.episode import run_episode
from evolute.types import Backend, Problem, Rollout, SamplingParams, Task


@dataclass(frozen=True, slots=True)
class EpisodePlayer:
    """Plays each problem as one episode of `task`. Implements `evolute.types.Player`."""

    task: Task
    backend: Backend
    sampling: SamplingParams
    adapter: str | None = None
    cache_salt: str = ""

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        """As `run_episode`: RequestError and cancellation propagate, the rest is data."""
        return await run_episode(
            self.task,
            problem,
            self.backend,
            self.sampling,
            adapter=self.adapter,
            group=group,
            index=index,
            cache_salt=self.cache_salt,
            seed=seed,
        )
