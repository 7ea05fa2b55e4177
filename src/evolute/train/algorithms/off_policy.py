"""Correction for tokens sampled by weights or kernels that differ a little from the trainer's.

    correction(old, rollout, sequence, config) -> factor on each token's loss; 0 drops it

q = exp(old - rollout), per token. In this order: reject sequences with an outlier, mask tokens
out of bounds (IcePop), scale by the truncated ratio of the token or of the sequence (truncated
importance sampling, Yao et al. 2025), mask sequences by the mean or the product of their ratios.
Everything is off by default (a bound of 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evolute.types import TrainingError


@dataclass(frozen=True, slots=True)
class OffPolicyConfig:
    """Bounds on q; 0 switches a part off."""

    outlier_low: float = 0.0
    outlier_high: float = 0.0
    token_low: float = 0.0
    token_high: float = 0.0
    truncate: float = 0.0  # multiply the loss by min(q, truncate)
    geometric_low: float = 0.0
    geometric_high: float = 0.0
    product_low: float = 0.0
    product_high: float = 0.0
    truncate_sequence: float = 0.0  # multiply it by min(product of q, truncate_sequence)

    @property
    def is_active(self) -> bool:
        highs = (self.outlier_high, self.token_high, self.geometric_high, self.product_high)
        return any(highs) or self.truncate > 0 or self.truncate_sequence > 0


def correction(
    old_logprobs: Float[Tensor, " T"],
    rollout_logprobs: Float[Tensor, " T"],
    sequence: Int[Tensor, " T"],
    config: OffPolicyConfig,
) -> Float[Tensor, " T"]:
    """Factor on each token's loss; 0 drops it. `sequence` numbers the tokens' sequences."""
    if config.is_active and not torch.isfinite(rollout_logprobs).all():
        raise TrainingError(
            "off-policy correction is on, but rollout log-probabilities are missing."
        )
    log_q = (old_logprobs - rollout_logprobs).detach()
    q = log_q.clamp(-20, 20).exp()
    factor = torch.ones_like(q)
    if not config.is_active:
        return factor
    count = int(sequence.max()) + 1 if len(sequence) else 0
    if config.outlier_high:
        outlier = ((q < config.outlier_low) | (q > config.outlier_high)).to(q.dtype)
        factor *= (_per_sequence(outlier, sequence, count) == 0).to(q.dtype)[sequence]
    if config.token_high:
        factor *= ((q >= config.token_low) & (q <= config.token_high)).to(q.dtype)
    total = _per_sequence(log_q, sequence, count)
    length = _per_sequence(torch.ones_like(q), sequence, count).clamp(min=1)
    if config.truncate:
        factor *= q.clamp(max=config.truncate)
    if config.truncate_sequence:
        product = total.clamp(-20, 20).exp()
        factor *= product.clamp(max=config.truncate_sequence)[sequence]
    if config.geometric_high:
        factor *= _within(total / length, config.geometric_low, config.geometric_high)[sequence]
    if config.product_high:
        factor *= _within(total, config.product_low, config.product_high)[sequence]
    return factor


def _per_sequence(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add_(0, sequence, values)


def _within(log_ratio: Tensor, low: float, high: float) -> Tensor:
    ratio = log_ratio.clamp(-20, 20).exp()
    return ((ratio >= low) & (ratio <= high)).to(ratio.dtype)
