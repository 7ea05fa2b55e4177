"""Which settings of the schedule act? Rows for `effective.py`, and what it says of stale tokens.

CONTROL_ROWS has each key under `asynchrony`, `failures`, `agent` and `dispatch`, and those that
choose a schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from evolute.agents import AgentConfig, DispatchConfig
from evolute.train.settings import TrainConfig

Acts = Callable[[TrainConfig], bool]
PLAIN = ("schedule", "replay", "episode_timeout_s", "stall_timeout_s")  # keys without a section


def _never(config: TrainConfig) -> bool:
    return False


def _plays(config: TrainConfig) -> bool:
    return not config.replay


def _asynchronous(config: TrainConfig) -> bool:
    return config.schedule == "asynchronous" and not config.replay


def _stale(config: TrainConfig) -> bool:
    return _asynchronous(config) and config.asynchrony.max_staleness > 0


def _adaptive(config: TrainConfig) -> bool:
    return _asynchronous(config) and config.asynchrony.adaptive


def _agent(config: TrainConfig) -> bool:
    return config.has_tools and not config.replay


AGENTS = ("agent", "dispatch")  # sections that only tasks with tools read
NO_TOOLS = "the task has no tools, so that nothing is played by an agent"
REPLAYED = "replay takes the rollouts of another run, nothing is played"
ONLY = "only the schedule 'asynchronous' reads it"
CONTROL_ROWS: dict[str, tuple[Acts, str]] = {
    "schedule": (_plays, REPLAYED),
    "replay": (lambda c: bool(c.replay), "no run is replayed"),
    "episode_timeout_s": (_plays, REPLAYED),
    "stall_timeout_s": (lambda c: True, ""),
    "asynchrony.max_staleness": (_asynchronous, ONLY),
    "asynchrony.stale": (_stale, f"{ONLY}, and with max_staleness = 0 nothing is ever stale"),
    "asynchrony.max_requeues": (
        lambda c: _stale(c) and c.asynchrony.stale == "requeue",
        "nothing is sent back; set asynchrony.stale = 'requeue'",
    ),
    "asynchrony.max_groups": (_asynchronous, ONLY),
    "asynchrony.adaptive": (_asynchronous, ONLY),
    "asynchrony.min_groups": (_adaptive, f"{ONLY}, with asynchrony.adaptive"),
    "asynchrony.burst": (_adaptive, f"{ONLY}, with asynchrony.adaptive"),
    "asynchrony.look_s": (_adaptive, f"{ONLY}, with asynchrony.adaptive"),
    "failures.truncated": (
        lambda c: not c.algorithm.selection.overlong,
        "algorithm.selection.overlong takes truncated rollouts out of the gradient already",
    ),
    **{
        f"failures.{cause}": (lambda c: True, "")
        for cause in ("engine", "environment", "grader", "timeout", "other")
    },
    **{f"agent.{field.name}": (_agent, NO_TOOLS) for field in fields(AgentConfig)},
    **{f"dispatch.{field.name}": (_agent, NO_TOOLS) for field in fields(DispatchConfig)},
    "agent.temperature": (_never, "the run's own temperature is the agent's"),
    "agent.top_p": (_never, "what is trained on is drawn from the whole distribution"),
    "agent.keep_samples": (_never, "a run trains on the samples"),
    "agent.max_new_tokens": (
        lambda c: _agent(c) and not c.max_new_tokens,
        f"{NO_TOOLS}, or the run's own max_new_tokens is the agent's",
    ),
}


def control_notes(config: TrainConfig) -> Iterator[str]:
    """What follows from the schedule, above all for tokens of older weights."""
    if config.replay:
        yield f"the rollouts are those of {config.replay}, in the order in which it used them"
        return
    if config.schedule == "asynchronous" and not config.is_off_policy:
        yield "max_staleness = 0: the bits, and the speed, of the synchronous schedule"
    if config.is_off_policy:
        yield _about_staleness(config)
    counted = [
        cause
        for cause in ("engine", "environment", "grader", "timeout", "other")
        if getattr(config.failures, cause) != "nothing"
    ]
    if counted:
        yield f"failures of class {', '.join(counted)} count with the reward they have, mostly 0"


def _about_staleness(config: TrainConfig) -> str:
    how = (
        "one update"
        if config.schedule == "one_step_off"
        else f"{config.asynchrony.max_staleness} updates, some by more"
    )
    if config.algorithm.off_policy.is_active:
        return f"tokens are stale by up to {how}; algorithm.off_policy corrects for it"
    if config.anchor == "rollout":
        return f"tokens are stale by up to {how}; the ratio to the sampler corrects for it"
    return (
        f"tokens are stale by up to {how}, and nothing corrects for it: set algorithm.anchor = "
        "'rollout', a loss anchored on the sampler (rollout_is, dppo), or algorithm.off_policy.*"
    )
