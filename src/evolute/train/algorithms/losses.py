"""Policy-gradient losses per token. Pure functions of tensors; T trained tokens.

clipped     -min(r A, clip(r) A), r = exp(logp - old)          (PPO; clip-higher: DAPO)
dual_clip   the same, bounded by -c A where A < 0              (Ye et al. 2020)
importance_sampling   -r A
cispo       -A sg(clip(r)) logp                                (MiniMax 2025)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RATIO_BOUND = 20.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """`clip_high` > `clip_low` is DAPO's clip-higher; `dual_clip` is used by that loss only."""

    name: str = "clipped"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0


LOSSES = ("clipped", "dual_clip", "importance_sampling", "cispo")
CLIPPING = ("clipped", "dual_clip", "cispo")


def policy_loss(
    logprobs: Float[Tensor, " T"],
    old_logprobs: Float[Tensor, " T"],
    advantages: Float[Tensor, " T"],
    config: LossConfig,
) -> Float[Tensor, " T"]:
    """Loss of each token; sum it with weights already in `advantages`.

    `logprobs` carry the gradient; `old_logprobs` are constants of the policy before the update.
    """
    ratio = (logprobs - old_logprobs.detach()).clamp(-RATIO_BOUND, RATIO_BOUND).exp()
    if config.name == "importance_sampling":
        return -ratio * advantages
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    if config.name == "cispo":
        return -advantages * clipped.detach() * logprobs
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if config.name == "dual_clip":
        bound = -config.dual_clip * advantages
        loss = torch.where(advantages < 0, torch.minimum(loss, bound), loss)
    return loss


def kl_estimate(
    logprobs: Float[Tensor, " T"], ref_logprobs: Float[Tensor, " T"], kind: str = "k3"
) -> Float[Tensor, " T"]:
    """KL(policy, reference) per sampled token: k1, abs, k2 or k3 (Schulman 2020)."""
    d = logprobs - ref_logprobs
    if kind == "k1":
        return d
    if kind == "abs":
        return d.abs()
    if kind == "k2":
        return d.square() / 2
    return ((-d).clamp(-20, 20).exp() + d - 1).clamp(-10, 10)
