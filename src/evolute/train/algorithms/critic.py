"""The critic's loss per token: squared error of values that may not move far at once.

    value_loss(values, old_values, returns, clip) -> [T]

1/2 max((V - G)^2, (V_old + clip(V - V_old, +-c) - G)^2)     Schulman et al. 2016; PPO2's clipping
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """The value head that gae learns beside the policy."""

    lr: float = 1e-2
    clip: float = 0.2  # how far a value may move in one update before its loss stops falling


def value_loss(
    values: Float[Tensor, " T"],
    old_values: Float[Tensor, " T"],
    returns: Float[Tensor, " T"],
    clip: float,
) -> Float[Tensor, " T"]:
    """Loss of each token's value; `values` carry the gradient."""
    moved = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (moved - returns).square()) / 2
