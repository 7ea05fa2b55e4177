"""Credit per token, and the losses made of it: pure functions, registered by name."""

from evolute.train.algorithms import anchored_losses, covariance_losses, ratio_losses
from evolute.train.algorithms.advantages import RULES, GroupRule, group_advantages
from evolute.train.algorithms.covariance_losses import mark_tokens
from evolute.train.algorithms.critic import CriticConfig, value_loss
from evolute.train.algorithms.kl import ESTIMATORS, AdaptiveKl, KlConfig, kl_estimate
from evolute.train.algorithms.losses import LOSSES, Loss, LossConfig, LossTokens, policy_loss
from evolute.train.algorithms.off_policy import OffPolicyConfig, correction
from evolute.train.algorithms.reductions import REDUCTIONS, token_weights
from evolute.train.algorithms.registry import Registry
from evolute.train.algorithms.selection import (
    SelectionConfig,
    choose_groups,
    is_useful,
    overlong_penalty,
)
from evolute.train.algorithms.token_credit import (
    TOKEN_RULES,
    TokenEvidence,
    TokenRule,
    discounted_returns,
    gae,
    token_advantages,
    whiten,
)

__all__ = [
    "ESTIMATORS",
    "LOSSES",
    "REDUCTIONS",
    "RULES",
    "TOKEN_RULES",
    "AdaptiveKl",
    "CriticConfig",
    "GroupRule",
    "KlConfig",
    "Loss",
    "LossConfig",
    "LossTokens",
    "OffPolicyConfig",
    "Registry",
    "SelectionConfig",
    "TokenEvidence",
    "TokenRule",
    "anchored_losses",
    "choose_groups",
    "correction",
    "covariance_losses",
    "discounted_returns",
    "gae",
    "group_advantages",
    "is_useful",
    "kl_estimate",
    "mark_tokens",
    "overlong_penalty",
    "policy_loss",
    "ratio_losses",
    "token_advantages",
    "token_weights",
    "value_loss",
    "whiten",
]
