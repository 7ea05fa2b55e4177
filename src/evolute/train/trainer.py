"""One update: credit -> weights baked in -> micro-batches -> gradient -> AdamW.

    Trainer(policy, config).update(rollouts) -> UpdateReport

Checked while it runs, and the step is not applied when it fails: advantages of a group sum to
zero, every masked token is trained exactly once, the first ratio is exactly 1, nothing is NaN.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from evolute.models import LoadedModel, LoraConfig
from evolute.train.algorithms import (
    correction,
    group_advantages,
    kl_estimate,
    policy_loss,
    token_weights,
)
from evolute.train.policy import Policy, TokenBatch
from evolute.train.rollouts.packing import Credited, MicroBatch, pack
from evolute.train.settings import OptimizerConfig, TrainConfig
from evolute.types import Outcome, Rollout, TrainingError


@runtime_checkable
class Trained(Protocol):
    """The settings that say what of a model is trained."""

    @property
    def method(self) -> str: ...
    @property
    def lora(self) -> LoraConfig: ...
    @property
    def seed(self) -> int: ...
    @property
    def fused(self) -> bool: ...
    @property
    def precision(self) -> str: ...


def make_policy(model: LoadedModel, config: Trained) -> Policy:
    """The policy that the settings ask for."""
    lora = config.lora if config.method == "lora" else None
    return Policy(model, lora, config.seed, fused=config.fused, precision=config.precision)


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did."""

    num_tokens: int
    metrics: dict[str, float]
    failures: dict[str, int] = field(default_factory=dict)


class Trainer:
    """Owns the optimizer; the policy's adapter is changed in place."""

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self.policy, self.config = policy, config
        self.optimizer = make_optimizer(policy, config.optimizer)
        self.num_updates = 0

    def update(self, rollouts: Sequence[Rollout]) -> UpdateReport:
        """Train on the rollouts of one step. Without any contrast in rewards nothing changes."""
        started = time.perf_counter()
        failures = Counter(r.failure or "unknown" for r in rollouts if r.outcome is Outcome.FAILED)
        credited = credit(rollouts, self.config)
        if self.config.skip_zero_advantage:
            credited = [c for c in credited if c.advantage]
        sums: dict[str, float] = defaultdict(float)
        if any(c.advantage for c in credited):
            for _ in range(self.config.epochs):
                for part in self._mini_batches(credited):
                    self._optimize(part, sums)
        report = _summary(sums)
        report["update_s"] = time.perf_counter() - started
        return UpdateReport(int(sums["tokens"]), report, dict(failures))

    # -- internals ---------------------------------------------------------------

    def _mini_batches(self, credited: list[Credited]) -> list[list[Credited]]:
        if self.config.mini_batches == 1:
            return [credited]
        groups = sorted({c.group for c in credited})
        part_of = {group: i % self.config.mini_batches for i, group in enumerate(groups)}
        parts: list[list[Credited]] = [[] for _ in range(self.config.mini_batches)]
        for one in credited:
            parts[part_of[one.group]].append(one)
        scale = len(parts)  # weights were baked for the whole batch
        return [[replace(c, advantage=c.advantage * scale) for c in part] for part in parts]

    def _optimize(self, credited: list[Credited], sums: dict[str, float]) -> None:
        batches = pack(credited, self.config.micro_batch_tokens)
        if not batches:
            return
        expected = sum(sum(c.sample.loss_mask) for c in credited)
        self.optimizer.zero_grad(set_to_none=True)
        trained = sum(self._backward(batch, sums) for batch in batches)
        if trained != expected:
            raise TrainingError(f"{trained} tokens were trained, the masks hold {expected}.")
        self._apply(sums)

    def _backward(self, batch: MicroBatch, sums: dict[str, float]) -> int:
        config = self.config.algorithm
        tokens, scores = self.policy.scores(batch, self.config.temperature)
        old = self._old_logprobs(tokens, scores.logprobs)
        factor = correction(old, tokens.rollout_logprobs, tokens.sequence, config.off_policy)
        losses = policy_loss(scores.logprobs, old, tokens.advantages * factor, config.loss)
        loss = losses.sum()
        if not torch.isfinite(loss):
            raise TrainingError("the loss is not finite; the step was not applied. Lower lr.")
        torch.autograd.backward(loss)
        with torch.no_grad():
            _measure(sums, tokens, scores.logprobs, old, scores.entropy, factor, loss)
        return len(tokens.targets)

    def _old_logprobs(self, tokens: TokenBatch, logprobs: Tensor) -> Tensor:
        """Before the update: the policy's own on the first pass, so that the ratio is exactly 1;
        with several passes the sampler's are the anchor."""
        if self.config.epochs == self.config.mini_batches == 1:
            return logprobs.detach()
        return tokens.rollout_logprobs

    def _apply(self, sums: dict[str, float]) -> None:
        config, done = self.config, self.num_updates + 1
        total = config.steps * config.epochs * config.mini_batches
        lr, norm = apply_gradient(self.policy, self.optimizer, config.optimizer, done, total)
        self.num_updates = done
        sums["lr"] = lr
        sums["grad_norm"] += norm
        sums["updates"] += 1


def make_optimizer(policy: Policy, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over what the policy trains."""
    return torch.optim.AdamW(
        policy.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


def apply_gradient(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    settings: OptimizerConfig,
    update: int,
    total: int,
) -> tuple[float, float]:
    """The `update`-th optimizer step of `total`. Returns its learning rate and the gradient's norm
    before clipping. Raises TrainingError for a gradient that is not finite."""
    norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm))
    if not math.isfinite(norm):
        raise TrainingError("the gradient is not finite; the step was not applied. Lower lr.")
    lr = learning_rate(update, total, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return lr, norm


def learning_rate(update: int, total: int, settings: OptimizerConfig) -> float:
    """Of the `update`-th of `total` optimizer steps, from 1: a warm-up, then constant or down to a
    tenth."""
    warm = min(update / max(settings.warmup_steps, 1), 1.0)
    if settings.decay == "constant":
        return settings.lr * warm
    done = (update - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
    return settings.lr * warm * (1 - 0.9 * min(max(done, 0.0), 1.0))


def credit(rollouts: Sequence[Rollout], config: TrainConfig) -> list[Credited]:
    """Advantages with the reduction's weight; failed rollouts are out of the statistics."""
    valid = [r for r in rollouts if r.outcome.is_reward_valid]
    by_group: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in valid:
        by_group[rollout.group].append(rollout)
    found: list[tuple[Rollout, float]] = []
    for members in by_group.values():
        advantages = group_advantages([r.reward for r in members], config.algorithm.advantage)
        if abs(sum(advantages)) > 1e-6 * max(1.0, *map(abs, advantages)) * len(advantages):
            raise TrainingError("the advantages of a group do not sum to zero.")
        found += zip(members, advantages)
    pairs = [(rollout, a, sample) for rollout, a in found for sample in rollout.samples]
    lengths = [sum(sample.loss_mask) for _, _, sample in pairs]
    longest = config.max_new_tokens or max(lengths, default=1)
    groups = [rollout.group for rollout, _, _ in pairs]
    weights = token_weights(config.algorithm.reduction, lengths, groups, longest)
    return [
        Credited(sample, rollout.group, advantage * weight, number)
        for number, ((rollout, advantage, sample), weight) in enumerate(zip(pairs, weights))
    ]


def _measure(
    sums: dict[str, float],
    tokens: TokenBatch,
    logprobs: Tensor,
    old: Tensor,
    entropy: Tensor,
    factor: Tensor,
    loss: Tensor,
) -> None:
    difference = (logprobs - tokens.rollout_logprobs).abs()
    ratio = (logprobs - old).exp()
    sums["tokens"] += len(logprobs)
    sums["loss"] += float(loss)
    sums["entropy"] += float(entropy.sum())
    sums["effective"] += float((factor > 0).sum())
    sums["ratio_max"] = max(sums["ratio_max"], float(ratio.max()))
    sums["difference"] += float(difference.sum())
    sums["difference_max"] = max(sums["difference_max"], float(difference.max()))
    sums["mismatch"] += float(kl_estimate(tokens.rollout_logprobs, logprobs).sum())


def _summary(sums: dict[str, float]) -> dict[str, float]:
    tokens, updates = max(sums["tokens"], 1), max(sums["updates"], 1)
    return {
        "loss": sums["loss"] / updates,
        "grad_norm": sums["grad_norm"] / updates,
        "lr": sums["lr"],
        "entropy": sums["entropy"] / tokens,
        "effective_token_frac": sums["effective"] / tokens,
        "ratio_max": sums["ratio_max"],
        "logprob_abs_diff_mean": sums["difference"] / tokens,
        "logprob_abs_diff_max": sums["difference_max"],
        "mismatch_kl": sums["mismatch"] / tokens,
    }
