"""Which rollouts are worth training on, and how are long ones judged? (DAPO, arXiv 2503.14476)

    is_useful(rewards)                            a group with contrast
    choose_groups(groups, wanted, how, ...)       groups to train on; None: sample more
    overlong_penalty(length, max_length, buffer)  0 to -1 over the last `buffer` tokens

Dynamic sampling: `filter` keeps sampling until there are enough useful groups; `replace` puts
copies of useful groups in the place of the others when their share is above a bound (POLARIS).
The overlong filter takes truncated rollouts out of the gradient, not out of their group's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Group = TypeVar("Group")
CONTRAST = 1e-6  # rewards closer than this are equal


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """All off by default. Rewards of failed rollouts never count."""

    dynamic: Literal["off", "filter", "replace"] = "off"
    max_batches: int = 30  # dynamic: batches sampled for one step before the run stops
    min_useful_frac: float = 0.3  # replace: with no more useful groups than this, sample again
    zero_variance: bool = False  # groups without contrast leave the reduction's counts too
    overlong: bool = False  # truncated rollouts get no gradient
    penalty_tokens: int = 0  # overlong penalty over the last tokens before the limit; 0: none
    penalty: float = 1.0  # reward that a rollout of full length loses


def is_useful(rewards: Sequence[float]) -> bool:
    """Rewards that differ, so that advantages do. Needs two or more."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > CONTRAST


def choose_groups(
    groups: Sequence[Group],
    useful: Sequence[bool],
    wanted: int,
    config: SelectionConfig,
) -> list[Group] | None:
    """`wanted` of the groups sampled so far, first come first; None when more must be sampled."""
    kept = [group for group, good in zip(groups, useful) if good]
    if config.dynamic == "off":
        return list(groups[:wanted])
    if len(kept) >= wanted:
        return kept[:wanted]
    if config.dynamic == "replace" and len(kept) > config.min_useful_frac * len(groups):
        return [kept[i % len(kept)] for i in range(wanted)]
    return None


def overlong_penalty(length: int, max_length: int, buffer: int, factor: float = 1.0) -> float:
    """What is added to the reward: 0 up to max_length - buffer, then down to -factor at
    max_length and beyond."""
    over = length - (max_length - buffer)
    return -factor * min(max(over / buffer, 0.0), 1.0) if buffer > 0 else 0.0
