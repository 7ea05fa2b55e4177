"""Credit of a response from the rewards of its group: one number a rollout.

    group_advantages(rewards, rule)     rules: RULES; more by RULES.add(name, GroupRule(...))

grpo      (r - mean) / (sample std + 1e-6)            Shao et al. 2024, arXiv 2402.03300
dr_grpo   r - mean                                    Liu et al. 2025, arXiv 2503.20783
rloo      (r - mean) n / (n - 1): r minus the mean of the others; Ahmadian et al. 2024, 2402.14740
maxrl     (r - mean) / (mean + 1e-6), rewards >= 0    maximum likelihood RL, 2026
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.train.algorithms.registry import Registry
from evolute.types import TrainingError

STD_EPS = MEAN_EPS = 1e-6
Rewards = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupRule:
    """`advantages` maps two or more rewards to as many advantages."""

    advantages: Callable[[Rewards], Rewards]
    sums_to_zero: bool = True  # within a group; checked at every step


def grpo(rewards: Rewards) -> Rewards:
    found: Rewards = (rewards - rewards.mean()) / (rewards.std(ddof=1) + STD_EPS)
    return found


def dr_grpo(rewards: Rewards) -> Rewards:
    found: Rewards = rewards - rewards.mean()
    return found


def rloo(rewards: Rewards) -> Rewards:
    found: Rewards = (rewards - rewards.mean()) * (len(rewards) / (len(rewards) - 1))
    return found


def maxrl(rewards: Rewards) -> Rewards:
    mean = rewards.mean()
    if mean < 0:
        raise TrainingError(
            f"maxrl divides by a group's mean reward, which is {mean:g}; it is defined for rewards "
            "of 0 and above. Shift the rewards, or use another advantage rule."
        )
    found: Rewards = (rewards - mean) / (mean + MEAN_EPS)
    return found


RULES: Registry[GroupRule] = Registry("advantage rule")
for _rule in (grpo, dr_grpo, rloo, maxrl):
    RULES.add(_rule.__name__, GroupRule(_rule))


def group_advantages(rewards: Sequence[float], rule: str = "grpo") -> list[float]:
    """One advantage for each reward of a group. A group of one teaches nothing: 0."""
    found = RULES[rule]
    if len(rewards) < 2:
        return [0.0] * len(rewards)
    return [float(a) for a in found.advantages(np.asarray(rewards, np.float64))]
