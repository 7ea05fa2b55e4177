"""Losses that weigh or keep tokens by a detached ratio; two are anchored on the sampler itself.

cispo        -A sg(clip(r)) logp, r to the anchor                  MiniMax 2025, arXiv 2506.13585;
             own bounds 1 and 4, a clamp to [0, 5]                 ScaleRL, 2510.13786
rollout_is   -A sg(q) logp, 0 where q is out of bounds             GLM-5; IcePop
dppo         -q A, dropped where policy and sampler diverge and the step would widen it
             tv: |p - mu|; kl: KL of the two-outcome distributions (token or not)

r = exp(logp - old), q = exp(logp - rollout), p and mu the probabilities themselves. The last two
correct for stale and mismatched data on their own: an off-policy correction on top is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evolute.train.algorithms.losses import LOSSES, Loss, LossConfig, LossTokens, ratio_to

KL_EPS = 1e-8


def cispo(tokens: LossTokens, config: LossConfig) -> Tensor:
    low, high = config.bounds()
    ratio = ratio_to(tokens.logprobs, tokens.old).clamp(1 - low, 1 + high)
    return -tokens.advantages * ratio.detach() * tokens.logprobs


def rollout_is(tokens: LossTokens, config: LossConfig) -> Tensor:
    low, high = config.bounds()
    ratio = ratio_to(tokens.logprobs, tokens.rollout).detach()
    kept = torch.where((ratio > 1 - low) & (ratio < 1 + high), ratio, 0.0)
    return -tokens.advantages * kept * tokens.logprobs


def dppo(tokens: LossTokens, config: LossConfig) -> Tensor:
    ratio = ratio_to(tokens.logprobs, tokens.rollout)
    return torch.where(_widens(tokens, config), 0.0, -ratio * tokens.advantages)


def _widens(tokens: LossTokens, config: LossConfig) -> Tensor:
    """Where the divergence is above its bound, and the advantage would carry it further."""
    low, high = config.bounds()
    policy, sampler = tokens.logprobs.detach().exp(), tokens.rollout.exp()
    if config.divergence == "tv":
        distance = (policy - sampler).abs()
    else:
        rest = (1 - sampler + KL_EPS).log() - (1 - policy + KL_EPS).log()
        distance = sampler * (tokens.rollout - tokens.logprobs.detach()) + (1 - sampler) * rest
    up = (tokens.advantages > 0) & (policy > sampler) & (distance > high)
    down = (tokens.advantages < 0) & (policy < sampler) & (distance > low)
    return up | down


LOSSES.add("cispo", Loss(cispo, clip=(1.0, 4.0)))
LOSSES.add("rollout_is", Loss(rollout_is, clip=(0.2, 0.2), anchor="rollout", needs_ratio=False))
LOSSES.add(
    "dppo",
    Loss(
        dppo,
        clip=(0.2, 0.2),
        reads=frozenset({"divergence"}),
        anchor="rollout",
        needs_ratio=False,
    ),
)
