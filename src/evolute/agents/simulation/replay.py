"""How long would a run that was recorded have taken with other limits?

    recorded(ending) -> Recorded                    what a trajectory's stages took, without waits
    read_recorded(trajectories.jsonl) -> [...]      of a run of `agents run`
    replay(recorded, groups, limits) -> Replayed    the real dispatcher on a clock that jumps
    compared(config) -> {name: Replayed}            a recorded run under several limits

Each stage takes what it took. Where stages wait rather than compute (tools, images, a model behind
a network) that is what they would take again; what computes slows its neighbours down, and a run
with more of them at once takes longer than is said here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, Ending, Stage
from evolute.telemetry import read_records
from evolute.telemetry.virtual_time import run_virtual
from evolute.types import ConfigError

NEVER_S = 1e9  # time limits are no part of it


@dataclass(frozen=True, slots=True)
class Recorded:
    """Seconds within each stage, retries included."""

    init_s: float
    run_s: float
    eval_s: float

    def scaled(self, init: float, run: float, eval: float) -> Recorded:
        return Recorded(self.init_s * init, self.run_s * run, self.eval_s * eval)


@dataclass(frozen=True, slots=True)
class Replayed:
    makespan_s: float
    peak_live: float


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """`evolute simulate FILE` with kind = "replay"."""

    kind: str = "replay"
    trajectories: str = ""  # trajectories.jsonl of a run of `agents run`
    cap: int = 8  # of each stage, and of the bounded batch
    init: float = 1.0  # starts take so many times what they took
    run: float = 1.0
    eval: float = 1.0
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)  # one more row, if changed

    def __post_init__(self) -> None:
        if self.kind != "replay":
            raise ConfigError(f"kind is {self.kind!r}; these settings are those of 'replay'.")
        if not self.trajectories:
            raise ConfigError(
                "trajectories is empty; name the trajectories.jsonl of a run, e.g. "
                "runs/agents/NAME/trajectories.jsonl."
            )
        if self.cap < 1 or min(self.init, self.run, self.eval) < 0:
            raise ConfigError("cap must be at least 1; init, run and eval cannot be negative.")


def recorded(ending: Ending[Any]) -> Recorded:
    """Raises ConfigError for a trajectory that did not go through all stages."""
    return _of({stage: times.service_s for stage, times in ending.times.items()})


def read_recorded(path: Path) -> tuple[list[Recorded], list[int]]:
    """And their groups. Trajectories that did not get through are left out. Raises ConfigError
    when none is left, or there is no such file."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; set trajectories to that of a run.")
    found, groups = [], []
    for record in read_records(path):
        times = {name: value["service_s"] for name, value in record.get("times", {}).items()}
        if not record.get("failure") and {Stage.INIT, Stage.RUN, Stage.EVAL} <= times.keys():
            found.append(_of(times))
            groups.append(int(record["group"]))
    if not found:
        raise ConfigError(f"{path} holds no finished trajectory; see `evolute agents run --help`.")
    return found, groups


def replay(
    trajectories: Sequence[Recorded], groups: Sequence[int], limits: DispatchConfig
) -> Replayed:
    """Deterministic, in no time."""
    never = {f"{stage}_timeout_s": NEVER_S for stage in ("init", "run", "eval", "close")}
    return run_virtual(_replay(trajectories, groups, replace(limits, **never)))  # type: ignore[arg-type]


def compared(config: ReplayConfig) -> dict[str, Replayed]:
    """The recorded run as a bounded batch, as a pipeline, at equal live worlds, and as told."""
    found, groups = read_recorded(Path(config.trajectories))
    found = [each.scaled(config.init, config.run, config.eval) for each in found]
    cap = config.cap
    stages = DispatchConfig(max_init=cap, max_run=cap, max_eval=cap, queue=cap)
    schedules = {
        f"bounded batch {cap}": DispatchConfig(schedule="bounded", max_run=cap),
        f"pipeline {cap}": stages,
        f"pipeline {cap}, live {cap}": replace(stages, max_live=cap),
    }
    if config.dispatch != DispatchConfig():
        schedules["as in [dispatch]"] = config.dispatch
    return {name: replay(found, groups, limits) for name, limits in schedules.items()}


# -- internals ---------------------------------------------------------------


class _Lifecycle:
    """Waits as long as each stage took."""

    def __init__(self, took: Recorded) -> None:
        self._took = took

    async def start(self) -> None:
        await asyncio.sleep(self._took.init_s)

    async def act(self) -> None:
        await asyncio.sleep(self._took.run_s)

    async def grade(self) -> Recorded:
        await asyncio.sleep(self._took.eval_s)
        return self._took

    async def close(self) -> None:
        """Nothing to release."""


async def _replay(
    trajectories: Sequence[Recorded], groups: Sequence[int], limits: DispatchConfig
) -> Replayed:
    async with Dispatcher(limits) as dispatcher:
        await dispatcher.run([_Lifecycle(each) for each in trajectories], list(groups))
        return Replayed(asyncio.get_running_loop().time(), dispatcher.stats()["live/peak"])


def _of(seconds: Mapping[Any, float]) -> Recorded:
    missing = [stage for stage in (Stage.INIT, Stage.RUN, Stage.EVAL) if stage not in seconds]
    if missing:
        raise ConfigError(f"a trajectory has no time of {', '.join(missing)}: it ended before.")
    return Recorded(seconds[Stage.INIT], seconds[Stage.RUN], seconds[Stage.EVAL])
