"""What must be known of a cluster and of a task to predict a training run on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.types import ConfigError

ScheduleName = Literal["synchronous", "one_step_off", "asynchronous"]
SCHEDULES: tuple[ScheduleName, ...] = ("synchronous", "one_step_off", "asynchronous")


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of positive numbers.

    fixed: always `mean`. uniform: between `mean` x (1 - spread) and `mean` x (1 + spread).
    lognormal: heavy-tailed, with that mean before `most` cuts it, and `spread` as sigma of the
    logarithm. trace: the numbers of `file`, one a line, drawn at random.
    """

    kind: Literal["fixed", "uniform", "lognormal", "trace"] = "fixed"
    mean: float = 0.0
    spread: float = 0.0
    most: float = 0.0  # larger ones become this; 0: no limit
    file: str = ""

    def __post_init__(self) -> None:
        if min(self.mean, self.spread, self.most) < 0:
            raise ConfigError("mean, spread and most of a distribution cannot be negative.")
        if self.kind == "uniform" and self.spread > 1:
            raise ConfigError(
                f"a uniform spread of {self.spread} gives negative numbers; use <= 1."
            )
        if (self.kind == "trace") != bool(self.file):
            raise ConfigError("a distribution has a `file` exactly when its kind is 'trace'.")


@dataclass(frozen=True, slots=True)
class EngineModel:
    """Service rates of all chips that sample, taken together."""

    stream_tokens_s: float = 50.0  # of one sequence alone
    tokens_s: float = 20_000.0  # of all together, at most
    max_running: int = 1024  # sequences at once; others queue


@dataclass(frozen=True, slots=True)
class TrainerModel:
    """Seconds of an update: fixed_s + trained tokens / tokens_s."""

    tokens_s: float = 20_000.0
    fixed_s: float = 0.0
    publish_s: float = 1.0  # the engine stands still


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """Who has which chips. The rates above are those of *all* chips, for one kind of work.

    The synchronous schedule uses all chips for one thing after the other, and pays switch_s twice a
    step. The others give the engine `engine_share` of the chips and the trainer the rest.
    """

    engine_share: float = 0.75
    switch_s: float = 0.0
    is_colocated: bool = True  # of the synchronous schedule; false: shares as the others

    def __post_init__(self) -> None:
        if not 0 < self.engine_share < 1:
            raise ConfigError(f"engine_share is {self.engine_share}; it lies between 0 and 1.")


@dataclass(frozen=True, slots=True)
class TrainingSimulation:
    """A training run to predict: kind = "training" in a file for `evolute simulate`."""

    kind: Literal["training"] = "training"
    schedules: tuple[str, ...] = SCHEDULES
    steps: int = 20
    prompts_per_step: int = 32
    samples_per_prompt: int = 8
    max_staleness: int = 4
    max_groups: int = 0  # in flight, asynchronous; 0: prompts_per_step x (max_staleness + 1)
    seed: int = 0
    turns: Spread = Spread("fixed", 1.0)  # of an episode
    tokens: Spread = Spread("lognormal", 4000.0, 1.0, 32_000.0)  # sampled in a turn
    tool_s: Spread = Spread("fixed", 0.0)  # waited for after each turn but the last
    group_spread: float = 0.0  # share (0 to 1) of the length that siblings have in common
    engine: EngineModel = field(default_factory=EngineModel)
    trainer: TrainerModel = field(default_factory=TrainerModel)
    cluster: ClusterModel = field(default_factory=ClusterModel)
    limit_s: float = 1e8  # virtual seconds; a run beyond it is an error

    def __post_init__(self) -> None:
        unknown = [name for name in self.schedules if name not in SCHEDULES]
        if unknown or not self.schedules:
            raise ConfigError(f"schedules {unknown}: known are {', '.join(SCHEDULES)}.")
        rates = (self.engine.stream_tokens_s, self.engine.tokens_s, self.trainer.tokens_s)
        if min(rates) <= 0 or self.engine.max_running < 1:
            raise ConfigError("rates must be above 0, and engine.max_running at least 1.")
        if not 0 <= self.group_spread <= 1:
            raise ConfigError(f"group_spread is {self.group_spread}; it lies between 0 and 1.")
