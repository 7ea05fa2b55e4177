"""Credit of each trained token: rules that need the order of tokens, values or a teacher.

    token_advantages(sequences, rule, gamma=, lam=)   rules: TOKEN_RULES
    gae(rewards, values, gamma, lam) -> (advantages, returns)
    discounted_returns(rewards, gamma);  whiten(parts)

gae            delta_t = r_t + g V_{t+1} - V_t, A_t = delta_t + g l A_{t+1}; whitened over the batch
               (Schulman et al. 2016, arXiv 1506.02438)
reinforce++    G_t = r_t + g G_{t+1}, whitened over the batch (Hu 2025, arXiv 2501.03262)
distillation   A_t = teacher_t - policy_t: minus the reverse KL of each token that the student drew
               (Agarwal et al. 2024, arXiv 2306.13649)

A sequence holds its trained tokens only: what the environment said stands between them, and credit
passes over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from evolute.train.algorithms.registry import Registry

WHITEN_EPS = 1e-8


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """Of one sequence of T trained tokens; what the rule does not need is None."""

    rewards: Float[Tensor, " T"]
    logprobs: Float[Tensor, " T"] | None = None  # of the policy that sampled
    values: Float[Tensor, " T"] | None = None
    teacher: Float[Tensor, " T"] | None = None


def gae(
    rewards: Float[Tensor, " T"], values: Float[Tensor, " T"], gamma: float, lam: float
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Advantages before whitening, returns = advantages + values. After the end the value is 0."""
    following = torch.cat([values[1:], values.new_zeros(1)])
    deltas = rewards + gamma * following - values
    advantages = discounted_returns(deltas, gamma * lam)
    return advantages, advantages + values


def discounted_returns(rewards: Float[Tensor, " T"], gamma: float) -> Float[Tensor, " T"]:
    """G_t = r_t + gamma G_{t+1}."""
    found = torch.empty_like(rewards)
    running = rewards.new_zeros(())
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + gamma * running
        found[t] = running
    return found


def whiten(parts: Sequence[Tensor]) -> list[Tensor]:
    """All tokens of all parts to mean 0 and sample variance 1. Fewer than two tokens: mean 0."""
    if not parts:
        return []
    flat = torch.cat(list(parts))
    variance = flat.var() if len(flat) > 1 else flat.new_ones(())
    scale = (variance + WHITEN_EPS).rsqrt()
    return [(part - flat.mean()) * scale for part in parts]


Credit = Callable[[Sequence[TokenEvidence], float, float], list[Tensor]]


@dataclass(frozen=True, slots=True)
class TokenRule:
    """`credit(sequences, gamma, lam)` gives a tensor a sequence."""

    credit: Credit
    needs: Literal["", "values", "teacher"] = ""
    reads: frozenset[str] = frozenset()  # of gamma, lam
    uses_rewards: bool = True


def _gae(sequences: Sequence[TokenEvidence], gamma: float, lam: float) -> list[Tensor]:
    return whiten([gae(s.rewards, _have(s.values), gamma, lam)[0] for s in sequences])


def _reinforce(sequences: Sequence[TokenEvidence], gamma: float, lam: float) -> list[Tensor]:
    return whiten([discounted_returns(s.rewards, gamma) for s in sequences])


def _distillation(sequences: Sequence[TokenEvidence], gamma: float, lam: float) -> list[Tensor]:
    return [_have(s.teacher) - _have(s.logprobs) for s in sequences]


def _have(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "the trainer computes what a rule says it needs"
    return tensor


TOKEN_RULES: Registry[TokenRule] = Registry("advantage rule")
TOKEN_RULES.add("gae", TokenRule(_gae, "values", frozenset({"gamma", "lam"})))
TOKEN_RULES.add("reinforce++", TokenRule(_reinforce, reads=frozenset({"gamma"})))
TOKEN_RULES.add("distillation", TokenRule(_distillation, "teacher", uses_rewards=False))


def token_advantages(
    sequences: Sequence[TokenEvidence], rule: str, *, gamma: float = 1.0, lam: float = 1.0
) -> list[Tensor]:
    """One advantage a trained token, for each sequence."""
    return TOKEN_RULES[rule].credit(sequences, gamma, lam)
