"""Many trajectories on one task, written down as they end, and gone on with after a stop.

await run_agents(config, task, backend, run_dir) -> AgentsRun

run_dir/config.toml            what was asked; the same again goes on, something else is refused
run_dir/trajectories.jsonl     one line a trajectory: read it. FAILED ones are played again
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, Ending
from evolute.agents.player import AgentPlayer
from evolute.agents.settings import AgentConfig
from evolute.envs.tools import ToolTask
from evolute.telemetry import RecordWriter, read_records
from evolute.types import (
    Backend,
    ConfigError,
    Outcome,
    Problem,
    Rollout,
    TrainingSample,
    VersionSegment,
)
from evolute.types.settings import to_toml

Key = tuple[int, int]  # group, index


@dataclass(frozen=True, slots=True)
class AgentsConfig:
    """An AGENT.toml: who acts, on what, how often."""

    task: str = "search-qa"
    model: str = "smollm2-135m"
    url: str = ""  # of a server to use instead of an engine in this process; `model` is named there
    adapter: str | None = None  # a PEFT directory; with `url` the name of a loaded one
    split: str = "heldout"
    count: int = 32  # problems
    samples: int = 1  # trajectories of each problem
    seed: int = 0
    agent: AgentConfig = field(default_factory=AgentConfig)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)

    def __post_init__(self) -> None:
        for name in ("count", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class AgentsRun:
    """Rollouts in the order of problems and repetitions; endings of those played just now."""

    rollouts: tuple[Rollout, ...]
    endings: tuple[Ending[Rollout], ...]
    stats: dict[str, float]
    resumed: int  # trajectories that were there already


async def run_agents(
    config: AgentsConfig,
    task: ToolTask,
    backend: Backend,
    run_dir: Path,
    *,
    adapter: str | None = None,
    on_done: Callable[[int, Rollout], None] | None = None,
) -> AgentsRun:
    """Play what is not there yet. `on_done` is told how many there are and the newest one. Raises
    ConfigError when `run_dir` holds a run with other settings; RequestError and cancellation end
    all, with what has ended written down."""
    _claim(run_dir, config)
    path = run_dir / "trajectories.jsonl"
    problems = task.problems(config.split, config.count, config.seed)
    done = {(r.group, r.index): r for r in read_trajectories(path) if r.outcome.is_reward_valid}
    resumed, endings = len(done), []
    async with Dispatcher(config.dispatch) as dispatcher:
        player = AgentPlayer(task, backend, config.agent, dispatcher=dispatcher, adapter=adapter)
        with RecordWriter(path) as writer:

            async def play(problem: Problem, group: int, index: int) -> None:
                ending, rollout = await player.play_timed(
                    problem, group=group, index=index, seed=config.seed
                )
                done[group, index] = rollout
                endings.append(ending)
                writer.write(_record(rollout, problem, ending))
                if on_done is not None:
                    on_done(len(done), rollout)

            await _all(
                [
                    play(problem, group, index)
                    for index in range(config.samples)
                    for group, problem in enumerate(problems)
                    if (group, index) not in done
                ]
            )
        stats = dispatcher.stats()
    rollouts = tuple(done[key] for key in sorted(done))
    return AgentsRun(rollouts, tuple(endings), stats, resumed)


def read_trajectories(path: Path) -> list[Rollout]:
    """Of a trajectories.jsonl; of several lines of one trajectory the last."""
    found: dict[Key, Rollout] = {}
    for record in read_records(path):
        rollout = _rollout(record)
        found[rollout.group, rollout.index] = rollout
    return [found[key] for key in sorted(found)]


# -- internals ---------------------------------------------------------------


def _claim(run_dir: Path, config: AgentsConfig) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    path, asked = run_dir / "config.toml", to_toml(config)
    if path.exists() and path.read_text() != asked:
        raise ConfigError(
            f"{run_dir} holds a run with other settings (see config.toml there); take another "
            "--run-dir, or the same settings to go on with it."
        )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(asked)
    temporary.replace(path)


async def _all(plays: list[Any]) -> None:
    """All to their ends; the first error ends the others."""
    tasks = [asyncio.create_task(play) for play in plays]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _record(rollout: Rollout, problem: Problem, ending: Ending[Rollout]) -> dict[str, Any]:
    """With what a reader needs first: what was asked, what was said, how it ended."""
    times = {str(stage): dataclasses.asdict(each) for stage, each in ending.times.items()}
    asked = "\n\n".join(message["content"] for message in problem.messages)
    head = {"prompt": asked, "gold": problem.gold, "seconds": round(ending.seconds, 3)}
    return {**head, "times": times, **dataclasses.asdict(rollout)}


def _rollout(record: dict[str, Any]) -> Rollout:
    names = [each.name for each in dataclasses.fields(Rollout)]
    values = {name: record[name] for name in names}
    values["outcome"] = Outcome(values["outcome"])
    values["samples"] = tuple(_sample(each) for each in values["samples"])
    return Rollout(**values)


def _sample(record: dict[str, Any]) -> TrainingSample:
    return TrainingSample(
        tuple(record["prompt_ids"]),
        tuple(record["response_ids"]),
        tuple(record["loss_mask"]),
        tuple(record["rollout_logprobs"]),
        tuple(VersionSegment(**each) for each in record["weight_versions"]),
    )
