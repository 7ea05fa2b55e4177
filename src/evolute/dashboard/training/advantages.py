"""What did each rollout of a step earn? Computed again from the rewards, as the trainer did.

advantages(rollouts, config) -> {(group, index, sample): value of each trained token}
why_not(config) -> str            empty, or why rewards alone do not tell
"""

from __future__ import annotations

from collections.abc import Sequence

from evolute.train.algorithms import RULES
from evolute.train.credit import credit, numbered
from evolute.train.settings import TrainConfig
from evolute.types import Rollout

Key = tuple[int, int, int]  # group, index, which of the rollout's samples


def why_not(config: TrainConfig) -> str:
    """Rules that need more than rewards: what was computed for them is not kept."""
    algorithm = config.algorithm
    if algorithm.advantage not in RULES:
        return (
            f"advantage {algorithm.advantage!r} goes along tokens, by a critic or by models that "
            "the run does not keep; rewards alone do not tell it."
        )
    if algorithm.kl.reward:
        return "the KL was taken off the rewards (algorithm.kl.reward), and it is not kept."
    return ""


def advantages(rollouts: Sequence[Rollout], config: TrainConfig) -> dict[Key, tuple[float, ...]]:
    """All rollouts of one step are needed. What had no part in the gradient is left out.
    Raises ValueError where `why_not` says why."""
    if reason := why_not(config):
        raise ValueError(reason)
    members = numbered(rollouts, config.failures)
    places: dict[int, Key] = {}
    seen: dict[tuple[int, int], int] = {}
    for number, member in enumerate(members):
        who = (member.rollout.group, member.rollout.index)
        seen[who] = seen.get(who, -1) + 1
        places[number] = (*who, seen[who])
    found = {}
    for one in credit(rollouts, config):
        length = sum(one.sample.loss_mask)
        each = [one.advantage / one.weight if one.weight else 0.0] * length
        values = each if one.per_token is None else one.per_token.tolist()
        found[places[one.number]] = tuple(float(value) for value in values)
    return found
