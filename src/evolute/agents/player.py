"""An agent as a `types.Player`: what training and evaluation play.

AgentPlayer(task, backend, config, dispatcher=...).play(problem, group=, index=, seed=) -> Rollout

Players that share a dispatcher share its limits. Without one, each trajectory starts at once.
"""

from __future__ import annotations

import asyncio

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, End, Ending
from evolute.agents.record import Record
from evolute.agents.settings import AgentConfig
from evolute.agents.setup import Setup
from evolute.agents.trajectory import AgentTrajectory
from evolute.envs.metrics import count
from evolute.envs.tools import ToolTask
from evolute.types import Backend, Problem, RequestError, Rollout


class AgentPlayer:
    """Implements `evolute.types.Player`."""

    def __init__(
        self,
        task: ToolTask,
        backend: Backend,
        config: AgentConfig | None = None,
        *,
        dispatcher: Dispatcher | None = None,
        adapter: str | None = None,
        cache_salt: str = "",
    ) -> None:
        self.task, self.backend, self.config = task, backend, config or AgentConfig()
        self.dispatcher = dispatcher or Dispatcher(DispatchConfig(schedule="all"))
        self.adapter, self.cache_salt = adapter, cache_salt

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        """One trajectory to its end. Cancelling its group in the dispatcher is a cancellation."""
        return (await self.play_timed(problem, group=group, index=index, seed=seed))[1]

    async def play_timed(
        self, problem: Problem, *, group: int, index: int, seed: int
    ) -> tuple[Ending[Rollout], Rollout]:
        """With the times of its stages."""
        name = f"{group}/{problem.id}/{index}"
        record = Record(self.config.keep_samples)
        setup = Setup(self.backend, self.config, record, name, seed, self.adapter, self.cache_salt)
        trajectory = AgentTrajectory(self.task, problem, setup, group, index)
        ending = await self.dispatcher.play(trajectory, group=group, name=name)
        return ending, count(_rollout_of(ending, trajectory))


# -- internals ---------------------------------------------------------------


def _rollout_of(ending: Ending[Rollout], trajectory: AgentTrajectory) -> Rollout:
    if ending.end is End.CANCELLED:
        raise asyncio.CancelledError("its group was cancelled")
    if isinstance(ending.error, RequestError):
        raise ending.error
    if ending.end is End.FAILED:
        assert ending.error is not None
        return trajectory.failed(ending.error, str(ending.stage))
    assert ending.value is not None
    return ending.value
