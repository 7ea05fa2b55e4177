"""Losses of the ratio r = exp(logp - old). A is the weighted advantage, w the weight.

clipped               -min(r A, clip(r) A)                       PPO, 1707.06347; clip-higher: DAPO
dual_clip             the same, at most -c A where A < 0         Ye et al. 2020, 1912.09729
importance_sampling   -r A
gspo                  clipped, r = exp(mean log-ratio of the sequence)   Zheng et al., 2507.18071
sapo                  -A sigmoid(tau (r - 1)) 4 / tau            Qwen 2025, 2511.20347
cross_entropy         -w logp
"""

from __future__ import annotations

import torch
from torch import Tensor

from evolute.train.algorithms.losses import (
    LOSSES,
    Loss,
    LossConfig,
    LossTokens,
    ratio_to,
    sequence_means,
)

SEQUENCE_BOUND = 10.0  # of the log-ratio of a sequence


def clipped(tokens: LossTokens, config: LossConfig) -> Tensor:
    return _clip(ratio_to(tokens.logprobs, tokens.old), tokens.advantages, config)


def dual_clip(tokens: LossTokens, config: LossConfig) -> Tensor:
    loss, a = clipped(tokens, config), tokens.advantages
    return torch.where(a < 0, torch.minimum(loss, -config.dual_clip * a), loss)


def importance_sampling(tokens: LossTokens, config: LossConfig) -> Tensor:
    return -ratio_to(tokens.logprobs, tokens.old) * tokens.advantages


def gspo(tokens: LossTokens, config: LossConfig) -> Tensor:
    mean = sequence_means((tokens.logprobs - tokens.old).detach(), tokens.sequence)
    log_ratio = tokens.logprobs - tokens.logprobs.detach() + mean
    return _clip(log_ratio.clamp(max=SEQUENCE_BOUND).exp(), tokens.advantages, config)


def sapo(tokens: LossTokens, config: LossConfig) -> Tensor:
    ratio, a = ratio_to(tokens.logprobs, tokens.old), tokens.advantages
    tau = torch.where(a > 0, a.new_tensor(config.tau_positive), a.new_tensor(config.tau_negative))
    return -a * torch.sigmoid(tau * (ratio - 1)) * 4 / tau


def cross_entropy(tokens: LossTokens, config: LossConfig) -> Tensor:
    return -tokens.logprobs * tokens.weights


def _clip(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    low, high = config.bounds()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


LOSSES.add("clipped", Loss(clipped, clip=(0.2, 0.2), needs_ratio=False))
LOSSES.add("dual_clip", Loss(dual_clip, clip=(0.2, 0.2), reads=frozenset({"dual_clip"})))
LOSSES.add("importance_sampling", Loss(importance_sampling))
LOSSES.add("gspo", Loss(gspo, clip=(3e-4, 4e-4), reduction="sequence_mean"))
LOSSES.add(
    "sapo",
    Loss(sapo, reads=frozenset({"tau_positive", "tau_negative"}), reduction="sequence_mean"),
)
LOSSES.add(
    "cross_entropy", Loss(cross_entropy, anchor="none", needs_ratio=False, uses_advantages=False)
)
