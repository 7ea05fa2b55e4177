"""A recorded episode, and what of it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evolute.types.request import VersionSegment


class Outcome(StrEnum):
    """Whose doing the end of an episode was. Decides what of it is used."""

    DONE = "done"  # the environment said so
    TRUNCATED = "truncated"  # out of tokens or turns: the model's doing, reward valid
    FAILED = "failed"  # infrastructure: reward not valid, out of group statistics

    @property
    def is_reward_valid(self) -> bool:
        return self is not Outcome.FAILED


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """Tokens, mask and what credit needs, ready to be packed.

    Invariants: response_ids, loss_mask and rollout_logprobs have one length; loss_mask is
    True exactly on tokens that the policy sampled.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    rollout_logprobs: tuple[float, ...]  # 0.0 where the mask is False
    weight_versions: tuple[VersionSegment, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.response_ids), len(self.loss_mask), len(self.rollout_logprobs)}
        assert len(lengths) == 1, f"response, mask and logprobs differ in length: {lengths}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One episode: who, what, how it ended, and its training samples.

    Siblings of one problem share `group`. `failure` is the error class name when `outcome`
    is FAILED.
    """

    problem_id: str
    group: int
    index: int  # which repetition of the problem
    reward: float
    outcome: Outcome
    samples: tuple[TrainingSample, ...]
    text: str = ""
    failure: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
