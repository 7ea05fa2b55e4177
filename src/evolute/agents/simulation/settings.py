"""What is simulated: the work, the machines, the caps. Checked when made.

The defaults are those of the comparison in docs/lab.md (512 rollouts, as SkyRL-Agent's
generation phase, arXiv 2511.16108); what is not published is an assumption and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from evolute.agents.dispatcher import DispatchConfig
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class WorkConfig:
    """What the rollouts need; medians and the log-normal's sigma."""

    rollouts: int = 512
    group: int = 8  # rollouts of one problem
    init_s: float = 60.0  # of CPU time to start a world, median
    eval_s: float = 120.0  # of CPU time to grade it, median
    turns: float = 18.0  # median
    max_turns: int = 50
    turn_tokens: float = 245.0  # median, that the model writes in a turn
    tool_s: float = 4.0  # mean wait for a tool, exponential, without CPU
    sigma: float = 0.6  # of the logarithm of INIT's and EVAL's times (assumed)
    turn_sigma: float = 0.85  # of the logarithm of the number of turns (assumed)
    token_sigma: float = 0.0  # of the logarithm of a turn's tokens
    failure_frac: float = 0.0  # of starts and of gradings that raise


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What serves them."""

    tokens_per_s: float = 6000.0  # of all requests together
    request_tokens_per_s: float = 60.0  # of one request at most
    max_requests: int = 0  # whose keys and values fit; the rest wait; 0: all fit
    cpu_slots: int = 96
    cpu_penalty: float = 0.2  # share of work lost for each full oversubscription (assumed)


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """`evolute simulate FILE` with kind = "dispatch"."""

    kind: str = "dispatch"
    seeds: int = 2  # draws; the table has their means
    cap: int = 96  # of each stage, and of the bounded batch
    live_cap: int = 192  # of live worlds, where a row has such a cap
    sweep: tuple[float, ...] = ()  # INIT and EVAL times these: ratio of pipeline to bounded batch
    work: WorkConfig = field(default_factory=WorkConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)  # one more row, if changed

    def __post_init__(self) -> None:
        if self.kind != "dispatch":
            raise ConfigError(f"kind is {self.kind!r}; these settings are those of 'dispatch'.")
        for name in ("seeds", "cap", "live_cap"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if any(scale < 0 for scale in self.sweep):
            raise ConfigError(f"sweep is {self.sweep}; its scales cannot be negative.")
        _check_work(self.work)
        _check_machine(self.machine)


# -- internals ---------------------------------------------------------------


def _check_work(work: WorkConfig) -> None:
    for each in fields(work):
        if not getattr(work, each.name) >= 0:
            raise ConfigError(f"work.{each.name} is {getattr(work, each.name)}; use 0 or more.")
    if work.rollouts < 1 or work.group < 1 or work.max_turns < 1 or work.turns <= 0:
        raise ConfigError("work needs at least one rollout, one in a group, and one turn.")
    if work.failure_frac >= 1:
        raise ConfigError(f"work.failure_frac is {work.failure_frac}; it must lie below 1.")


def _check_machine(machine: MachineConfig) -> None:
    if machine.tokens_per_s <= 0 or machine.request_tokens_per_s <= 0 or machine.cpu_slots < 1:
        raise ConfigError("machine needs tokens_per_s, request_tokens_per_s and cpu_slots above 0.")
    if machine.max_requests < 0 or machine.cpu_penalty < 0:
        raise ConfigError("machine.max_requests and cpu_penalty cannot be negative.")
