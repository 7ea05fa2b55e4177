"""Losses that spare the few tokens whose log-probability moves with their advantage, because
those make the entropy collapse (Cui et al. 2025, arXiv 2505.22617).

    mark_tokens(logprobs, old, advantages, config, generator)    which tokens, of a whole mini-batch

covariance_t = (A_t - mean A)(logp_t - mean logp), A without the reduction's weight

clip_cov   clipped; a random `cov_frac` (at least one) of the tokens that are not clipped already
           and whose covariance lies between `cov_low` and `cov_high` gets no gradient
kl_cov     -r A; the `cov_frac` with the highest covariance gets + cov_coef w |log r|

Means and ranks are over the mini-batch, so the trainer marks tokens before it splits; called
without marks, the tokens given are the mini-batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evolute.train.algorithms.losses import LOSSES, Loss, LossConfig, LossTokens, ratio_to
from evolute.train.algorithms.ratio_losses import clipped

ROUNDING = 1e-5  # a log-ratio below has no sign that means anything, so |.| gets no gradient there


def mark_tokens(
    logprobs: Float[Tensor, " T"],
    old: Float[Tensor, " T"],
    advantages: Float[Tensor, " T"],
    config: LossConfig,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, " T"]:
    """Tokens that the loss treats apart. `advantages` without weights; the draw is the
    generator's, seed 0 without one."""
    a, logp = advantages.detach(), logprobs.detach()
    covariance = (a - a.mean()) * (logp - logp.mean())
    count = max(int(config.covariance_share() * len(a)), 1) if len(a) else 0
    marked = torch.zeros(len(a), dtype=torch.bool)
    if config.name == "kl_cov":
        marked[covariance.topk(count).indices] = True
        return marked
    low, high = config.bounds()
    ratio = ratio_to(logp, old)
    is_clipped = ((a > 0) & (ratio > 1 + high)) | ((a < 0) & (ratio < 1 - low))
    within = (covariance > config.cov_low) & (covariance < config.cov_high)
    candidates = (within & ~is_clipped).nonzero()[:, 0]
    generator = generator or torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(candidates), generator=generator)[:count]
    marked[candidates[chosen]] = True
    return marked


def clip_cov(tokens: LossTokens, config: LossConfig) -> Tensor:
    return torch.where(_marks(tokens, config), 0.0, clipped(tokens, config))


def kl_cov(tokens: LossTokens, config: LossConfig) -> Tensor:
    loss = -ratio_to(tokens.logprobs, tokens.old) * tokens.advantages
    size = (tokens.logprobs - tokens.old).abs()
    size = torch.where(size < ROUNDING, size.detach(), size)
    return torch.where(_marks(tokens, config), loss + config.cov_coef * tokens.weights * size, loss)


def _marks(tokens: LossTokens, config: LossConfig) -> Tensor:
    if tokens.marked is not None:
        return tokens.marked
    plain = torch.where(tokens.weights > 0, tokens.advantages / tokens.weights, 0.0)
    return mark_tokens(tokens.logprobs, tokens.old, plain, config)


LOSSES.add(
    "clip_cov",
    Loss(
        clip_cov,
        clip=(0.2, 0.2),
        reads=frozenset({"cov_low", "cov_high", "cov_frac"}),
        needs_ratio=False,
        needs_marks=True,
    ),
)
LOSSES.add("kl_cov", Loss(kl_cov, reads=frozenset({"cov_frac", "cov_coef"}), needs_marks=True))
