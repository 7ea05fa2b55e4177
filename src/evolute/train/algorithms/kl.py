"""How far is the policy from a reference, by the tokens it drew? Estimators, and their coefficient.

    kl_estimate(logprobs, ref_logprobs, kind)    with gradient; d = logprobs - reference
    AdaptiveKl(config).update(kl, num_sequences)

k1   d                   unbiased, may be negative; as a loss its expected gradient is zero
abs  |d|
k2   d^2 / 2             as a loss its gradient is that of the KL
k3   exp(-d) + d - 1     unbiased and never negative         (Schulman 2020, "Approximating KL")

The adaptive coefficient follows Ziegler et al. 2019 (arXiv 1909.08593, 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evolute.train.algorithms.registry import Registry

EXPONENT_BOUND, K3_BOUND, MAX_ERROR = 20.0, 10.0, 0.2


@dataclass(frozen=True, slots=True)
class KlConfig:
    """KL to the model before training; off while both coefficients are 0."""

    loss: float = 0.0  # coefficient as a term of the loss
    reward: float = 0.0  # coefficient as a part of the reward
    kind: str = "k3"
    target: float = 0.0  # mean KL a token that the coefficient steers to; 0: it stays
    horizon: int = 10_000  # sequences in which a steady error would double it at most

    @property
    def is_active(self) -> bool:
        return self.loss > 0 or self.reward > 0


Estimator = Callable[[Tensor], Tensor]
ESTIMATORS: Registry[Estimator] = Registry("KL estimator")
ESTIMATORS.add("k1", lambda d: d)
ESTIMATORS.add("abs", torch.abs)
ESTIMATORS.add("k2", lambda d: d.square() / 2)
ESTIMATORS.add(
    "k3",
    lambda d: ((-d).clamp(-EXPONENT_BOUND, EXPONENT_BOUND).exp() + d - 1).clamp(
        -K3_BOUND, K3_BOUND
    ),
)


def kl_estimate(
    logprobs: Float[Tensor, " T"], ref_logprobs: Float[Tensor, " T"], kind: str = "k3"
) -> Float[Tensor, " T"]:
    """KL(policy, reference) per sampled token: k1, abs, k2 or k3."""
    return ESTIMATORS[kind](logprobs - ref_logprobs)


class AdaptiveKl:
    """The coefficient in force: constant, or steered to a target."""

    def __init__(self, config: KlConfig) -> None:
        self._config = config
        self.coefficient = config.loss or config.reward

    def update(self, kl: float, num_sequences: int) -> None:
        """After a step with mean KL `kl` over `num_sequences`. Without a target nothing changes."""
        if self._config.target > 0:
            error = kl / self._config.target - 1
            bounded = min(max(error, -MAX_ERROR), MAX_ERROR)
            self.coefficient *= 1 + bounded * num_sequences / self._config.horizon
