"""The limits of a dispatcher, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from evolute.types import ConfigError

LIMITS = ("max_live", "max_init", "max_run", "max_eval", "queue")
USED = {  # schedule -> the limits that it has
    "pipeline": LIMITS,
    "bounded": ("max_run",),
    "all": (),
}


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """How many trajectories are where at once, and for how long; 0 is no limit of a number. A
    pipeline has a limit for each stage, a bounded batch one of whole lifecycles, `all` none."""

    schedule: Literal["pipeline", "bounded", "all"] = "pipeline"  # bounded: max_run lifecycles
    max_live: int = 0  # worlds at once, from the begin of their start to their close
    max_init: int = 96  # worlds that start at once
    max_run: int = 96  # agents that act at once
    max_eval: int = 96  # worlds that are graded at once
    queue: int = 96  # trajectories that may wait between two stages; more hold up the one before
    order: Literal["groups", "arrival"] = "groups"  # who goes first: nearly finished groups
    init_timeout_s: float = 600.0
    run_timeout_s: float = 7200.0
    eval_timeout_s: float = 1800.0
    close_timeout_s: float = 60.0
    grace_s: float = 5.0  # for a stage to end once it is cancelled; then it is left behind
    retries: int = 2  # of a start, and of a grading, that the infrastructure failed
    retry_wait_s: float = 1.0  # before the first retry; twice as long before each further one

    def __post_init__(self) -> None:
        for name in (*LIMITS, "retries", "retry_wait_s", "grace_s"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"dispatch.{name} is {getattr(self, name)}; it cannot be negative."
                )
        for name in ("init_timeout_s", "run_timeout_s", "eval_timeout_s", "close_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"dispatch.{name} is {getattr(self, name)}; it must be above 0.")
        defaults = {field.name: field.default for field in fields(type(self))}
        for name in set(LIMITS) - set(USED[self.schedule]):
            if getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"dispatch.{name} does nothing under dispatch.schedule = {self.schedule!r}; "
                    "drop it, or choose 'pipeline'."
                )
        if self.schedule == "bounded" and not self.max_run:
            raise ConfigError(
                "dispatch.schedule = 'bounded' needs dispatch.max_run above 0; without a bound it "
                "is 'all'."
            )

    def limit(self, name: str) -> int:
        """Of one of LIMITS, as this schedule has it; 0: none. Bounded batches hold one slot for
        the whole lifecycle, which is a limit of live worlds."""
        if self.schedule == "bounded":
            return self.max_run if name == "max_live" else 0
        return int(getattr(self, name)) if name in USED[self.schedule] else 0
