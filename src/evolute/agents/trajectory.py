"""One agent on one problem, in the dispatcher's stages.

    AgentTrajectory(task, problem, setup...)   start (INIT) -> act (RUN) -> grade (EVAL) -> Rollout

A broken world is an exception here and data in the player; what the model does wrong is neither.
"""

from __future__ import annotations

import math

from evolute.agents.own_tools import own_tools
from evolute.agents.react import Agent
from evolute.agents.record import Record
from evolute.agents.setup import AgentEnd, Setup, Stop
from evolute.agents.transitions import samples_of
from evolute.envs.step import read_messages, read_metrics
from evolute.envs.tools import Grade, ToolTask, ToolWorld
from evolute.types import EpisodeError, Outcome, Problem, RequestError, RewardError, Rollout

STOPS = {f"stop/{stop}": stop for stop in Stop}


class AgentTrajectory:
    """Implements `Lifecycle[Rollout]`. `setup.record` holds what has happened, failures too."""

    def __init__(
        self, task: ToolTask, problem: Problem, setup: Setup, group: int = 0, index: int = 0
    ) -> None:
        self.problem, self.group, self.index = problem, group, index
        self._task, self._setup = task, setup
        self._world: ToolWorld | None = None
        self._end: AgentEnd | None = None

    @property
    def record(self) -> Record:
        return self._setup.record

    async def start(self) -> None:
        """A world of its own, made anew on each call."""
        try:
            self._world = self._task.world(self.problem)
            await self._world.start()
        except RequestError as error:  # the world's own requests
            raise EpisodeError(f"the world did not start: {error}") from error

    async def act(self) -> None:
        """Raises RequestError when the backend cannot serve such requests at all."""
        assert self._world is not None, "act before start"
        try:
            messages = read_messages(self._world.instruction())
            tools = [*self._world.tools(), *own_tools(self._setup.config)]
        except RequestError as error:
            raise EpisodeError(f"the world has no instruction or no tools: {error}") from error
        self._end = await Agent(self._setup, messages, tools).run()

    async def grade(self) -> Rollout:
        """Raises RewardError for a grade that is none."""
        assert self._world is not None and self._end is not None, "grade before act"
        try:
            grade = _checked(await self._world.grade(self._end.answer))
        except RequestError as error:
            raise RewardError(f"grading failed: {error}") from error
        is_done = self._end.stop is Stop.FINISH
        outcome = Outcome.DONE if is_done else Outcome.TRUNCATED
        stops = {name: float(stop is self._end.stop) for name, stop in STOPS.items()}
        metrics = {**read_metrics(grade.metrics), **self.record.metrics(), **stops}
        metrics |= {"accuracy": float(grade.is_right)}
        return self._rollout(float(grade.reward), outcome, None, metrics)

    async def close(self) -> None:
        world, self._world = self._world, None
        if world is not None:
            await world.close()

    def failed(self, error: BaseException, stage: str) -> Rollout:
        """What is left of it when the infrastructure failed: no reward, and why."""
        why = {"error": str(error), "stage": stage}
        return self._rollout(0.0, Outcome.FAILED, type(error).__name__, {}, why)

    # -- internals ---------------------------------------------------------------

    def _rollout(
        self,
        reward: float,
        outcome: Outcome,
        failure: str | None,
        metrics: dict[str, float],
        why: dict[str, str] | None = None,
    ) -> Rollout:
        transitions = self.record.transitions
        samples = samples_of(transitions, merge=self._setup.config.merge_samples)
        end = self._end
        told = {"stop": end.stop.value, "answer": end.answer} if end is not None else {}
        metadata = {**told, "agents": self.record.agents, **(why or {})}
        return Rollout(
            self.problem.id,
            self.group,
            self.index,
            reward,
            outcome,
            samples,
            self.record.text,
            failure,
            metrics | ({"samples": float(len(samples))} if metrics else {}),
            metadata,
        )


# -- internals ---------------------------------------------------------------


def _checked(grade: Grade) -> Grade:
    if not isinstance(grade, Grade):
        raise RewardError(f"the world's grade is a {type(grade).__name__}; it must be a Grade.")
    if isinstance(grade.reward, bool | int | float) and math.isfinite(grade.reward):
        return grade
    raise RewardError(f"the world's reward is {grade.reward!r}; it must be one finite number.")
