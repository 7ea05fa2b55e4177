"""Who plays the problems of a run: an episode of its task, or an agent with tools?

task = task_of("sql?tier=1")                  a Task, or a ToolTask where the name is one of those
agent_of(config) -> AgentConfig               with what the run itself says of sampling
agent_player(config, task, engine, adapter)   its dispatcher is to be closed with the run
sampling_of(config, task)                     of an episode
num_places(engine)                            episodes that may ask an engine at once
"""

from __future__ import annotations

from dataclasses import replace

from evolute.agents import AgentConfig, AgentPlayer, Dispatcher
from evolute.envs import make_task
from evolute.envs.tools import ToolTask
from evolute.envs.tools.registry import make_tool_task
from evolute.train.settings import TrainConfig
from evolute.train.sync import LiveEngine
from evolute.types import Backend, SamplingParams, Task


def task_of(config: TrainConfig) -> Task | ToolTask:
    """Raises ConfigError for a name that no family has."""
    return make_tool_task(config.task) if config.has_tools else make_task(config.task)


def agent_of(config: TrainConfig) -> AgentConfig:
    length = config.max_new_tokens or config.agent.max_new_tokens
    return replace(config.agent, temperature=config.temperature, max_new_tokens=length)


def agent_player(
    config: TrainConfig, task: ToolTask, backend: Backend, adapter: str | None, places: int
) -> AgentPlayer:
    """At most `places` agents ask the model at once, whatever `dispatch` allows."""
    limits = config.dispatch
    if limits.schedule != "all":
        limits = replace(limits, max_run=min(limits.max_run or places, places))
    return AgentPlayer(
        task, backend, agent_of(config), dispatcher=Dispatcher(limits), adapter=adapter
    )


def sampling_of(config: TrainConfig, task: Task | ToolTask) -> SamplingParams:
    """The run's own length goes before the task's."""
    own = config.agent.max_new_tokens if isinstance(task, ToolTask) else task.max_new_tokens
    length = config.max_new_tokens or own
    return SamplingParams(max_new_tokens=length, temperature=config.temperature)


def num_places(engine: LiveEngine) -> int:
    """Of all replicas together."""
    replicas = getattr(engine, "replica_config", None)
    return engine.config.bulk_places * (replicas.count if replicas else 1)
