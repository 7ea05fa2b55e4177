"""Credit per token, and the losses made of it."""

from evolute.train.algorithms.advantages import RULES, group_advantages
from evolute.train.algorithms.losses import (
    CLIPPING,
    LOSSES,
    LossConfig,
    kl_estimate,
    policy_loss,
)
from evolute.train.algorithms.off_policy import OffPolicyConfig, correction
from evolute.train.algorithms.reductions import REDUCTIONS, token_weights

__all__ = [
    "CLIPPING",
    "LOSSES",
    "REDUCTIONS",
    "RULES",
    "LossConfig",
    "OffPolicyConfig",
    "correction",
    "group_advantages",
    "kl_estimate",
    "policy_loss",
    "token_weights",
]
