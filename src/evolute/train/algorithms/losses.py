"""Policy losses per token: their settings, what they read, and the one way to call them.

    policy_loss(logprobs, old, advantages, config, ...) -> loss of each token, with gradient

A loss is sum over tokens of weight x something. `advantages` carry that weight already;
`weights` are for terms without an advantage. The losses themselves: `ratio_losses.py`,
`anchored_losses.py`, `covariance_losses.py`; more by LOSSES.add(name, Loss(...)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evolute.train.algorithms.registry import Registry

RATIO_BOUND = 20.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """`clip_high` > `clip_low` is DAPO's clip-higher. A setting that the loss does not read is
    refused; None is the loss's own value (`LOSSES[name].clip`)."""

    name: str = "clipped"
    clip_low: float | None = None  # ratios below 1 - clip_low; with dppo: its bound
    clip_high: float | None = None
    dual_clip: float = 3.0  # dual_clip: -c A bounds the loss where A < 0
    divergence: Literal["tv", "kl"] = "tv"  # dppo: which divergence is bounded
    tau_positive: float = 1.0  # sapo: temperature of the gate where A > 0
    tau_negative: float = 1.05  # sapo: elsewhere
    cov_low: float = 1.0  # clip_cov: covariances between these
    cov_high: float = 5.0
    cov_frac: float | None = None  # share of tokens: clip_cov 2e-4, kl_cov 0.2
    cov_coef: float = 1.0  # kl_cov: of |log-ratio|

    def bounds(self) -> tuple[float, float]:
        """(low, high) in force."""
        low, high = LOSSES[self.name].clip or (0.0, 0.0)
        return (
            low if self.clip_low is None else self.clip_low,
            high if self.clip_high is None else self.clip_high,
        )

    def covariance_share(self) -> float:
        default = 2e-4 if self.name == "clip_cov" else 0.2
        return default if self.cov_frac is None else self.cov_frac


@dataclass(frozen=True, slots=True)
class LossTokens:
    """What a loss may read, T trained tokens. Only `logprobs` has a gradient."""

    logprobs: Float[Tensor, " T"]
    old: Float[Tensor, " T"]  # the ratio's anchor
    advantages: Float[Tensor, " T"]  # weight included
    weights: Float[Tensor, " T"]
    rollout: Float[Tensor, " T"]  # of the sampler
    sequence: Int[Tensor, " T"]
    marked: Bool[Tensor, " T"] | None = None  # covariance losses: the tokens that were chosen


def ratio_to(logprobs: Float[Tensor, " T"], anchor: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """exp(logprobs - anchor), the exponent within +-20."""
    return (logprobs - anchor.detach()).clamp(-RATIO_BOUND, RATIO_BOUND).exp()


def sequence_means(values: Float[Tensor, " T"], sequence: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Of each token's sequence, at each token."""
    count = int(sequence.max()) + 1 if len(sequence) else 0
    sums = values.new_zeros(count).index_add_(0, sequence, values)
    lengths = values.new_zeros(count).index_add_(0, sequence, torch.ones_like(values))
    return (sums / lengths.clamp(min=1))[sequence]


@dataclass(frozen=True, slots=True)
class Loss:
    """An entry of LOSSES."""

    function: Callable[[LossTokens, LossConfig], Tensor]
    clip: tuple[float, float] | None = None  # its own bounds; None: it has none
    reads: frozenset[str] = frozenset()  # settings of LossConfig beside name and bounds
    anchor: Literal["old", "rollout", "none"] = "old"
    needs_ratio: bool = True  # at ratio 1 its gradient is the plain policy gradient
    reduction: str = ""  # the only one it makes sense with; "": any
    uses_advantages: bool = True
    needs_marks: bool = False  # reads statistics of the whole mini-batch


LOSSES: Registry[Loss] = Registry("policy loss")


def policy_loss(
    logprobs: Float[Tensor, " T"],
    old_logprobs: Float[Tensor, " T"],
    advantages: Float[Tensor, " T"],
    config: LossConfig,
    *,
    weights: Float[Tensor, " T"] | None = None,
    rollout_logprobs: Float[Tensor, " T"] | None = None,
    sequence: Int[Tensor, " T"] | None = None,
    marked: Bool[Tensor, " T"] | None = None,
) -> Float[Tensor, " T"]:
    """Loss of each token; sum it with weights already in `advantages`.

    `logprobs` carry the gradient; `old_logprobs` are constants of the policy before the update.
    Without `weights` each is 1, without `rollout_logprobs` the sampler is the old policy, without
    `sequence` all tokens are of one. `advantages` without their weight are advantages / weights.
    """
    tokens = LossTokens(
        logprobs,
        old_logprobs.detach(),
        advantages,
        torch.ones_like(advantages) if weights is None else weights,
        (old_logprobs if rollout_logprobs is None else rollout_logprobs).detach(),
        torch.zeros(len(logprobs), dtype=torch.long) if sequence is None else sequence,
        marked,
    )
    return LOSSES[config.name].function(tokens, config)
