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
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from evolute.models import LoadedModel, LoraConfig
from evolute.train.algorithms import (
    LOSSES,
    TOKEN_RULES,
    correction,
    kl_estimate,
    mark_tokens,
    policy_loss,
)
from evolute.train.credit import Scored, credit
from evolute.train.evidence import Evidence
from evolute.train.parallel import Alone, Peers, full, spread
from evolute.train.policy import Policy, TokenBatch
from evolute.train.rollouts.packing import Credited, MicroBatch
from evolute.train.scoring import gather, logprobs_of, score_samples
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
    """Owns the optimizer; the policy's adapter is changed in place.

    `reference` is the model before training, needed with a KL when all weights are trained (with
    an adapter it is the policy without it); `teacher` is that of distillation. `peers` share the
    work: all get the same rollouts, and come to the same weights.
    """

    def __init__(
        self,
        policy: Policy,
        config: TrainConfig,
        reference: Policy | None = None,
        teacher: Policy | None = None,
        peers: Peers = Alone(),  # noqa: B008
    ) -> None:
        self.policy, self.config, self._peers = policy, config, peers
        self.optimizer = make_optimizer(policy, config.optimizer)
        self.num_updates = 0
        self._evidence = Evidence(policy, config, reference, teacher, peers)
        self._scored = Scored()
        self._marks: dict[int, Tensor] = {}

    def update(self, rollouts: Sequence[Rollout]) -> UpdateReport:
        """Train on the rollouts of one step. Without any contrast in rewards nothing changes."""
        started = time.perf_counter()
        failures = Counter(r.failure or "unknown" for r in rollouts if r.outcome is Outcome.FAILED)
        self._scored = self._evidence.of(rollouts)
        credited = credit(rollouts, self.config, self._scored)
        only_advantages = has_only_advantages(self.config)
        if self.config.skip_zero_advantage and only_advantages:
            credited = [c for c in credited if c.advantage]
        sums: dict[str, float] = defaultdict(float)
        if any(c.advantage for c in credited) or (credited and not only_advantages):
            check_rollout_logprobs(credited, self.config)
            for _ in range(self.config.epochs):
                for part in self._mini_batches(credited):
                    self._optimize(part, sums)
        sums = defaultdict(float, self._peers.total(sums))
        report = _summary(sums) | self._evidence.after(self._scored, sums)
        report["update_s"] = time.perf_counter() - started
        return UpdateReport(int(sums["tokens"]), report, dict(failures))

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside policy and optimizer."""
        return self._evidence.state()

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        self._evidence.load(state)

    # -- internals ---------------------------------------------------------------

    def _mini_batches(self, credited: list[Credited]) -> list[list[Credited]]:
        if self.config.mini_batches == 1:
            return [credited]
        groups = sorted({c.group for c in credited})
        part_of = {group: i % self.config.mini_batches for i, group in enumerate(groups)}
        parts: list[list[Credited]] = [[] for _ in range(self.config.mini_batches)]
        for one in credited:
            parts[part_of[one.group]].append(one)
        scale = float(len(parts))  # weights were baked for the whole batch
        return [[c.scaled(scale) for c in part] for part in parts]

    def _optimize(self, credited: list[Credited], sums: dict[str, float]) -> None:
        expected = sum(sum(c.sample.loss_mask) for c in credited)
        if not expected:
            return
        share = spread(credited, self.config.micro_batch_tokens, self._peers)
        if LOSSES[self.config.algorithm.loss.name].needs_marks:
            self._marks = self._marked(credited)
        self.optimizer.zero_grad(set_to_none=True)
        trained = 0
        fault: TrainingError | None = None
        try:
            trained = sum(self._backward(batch, sums) for batch in share.mine)
            for batch in share.idle:
                self._backward(batch, defaultdict(float))
        except TrainingError as error:
            fault = error
        self._peers.agree(fault)
        trained = int(self._peers.total({"trained": float(trained)})["trained"])
        if trained != expected:
            raise TrainingError(f"{trained} tokens were trained, the masks hold {expected}.")
        if self._peers.size > 1 and not self.policy.is_sharded:
            self._peers.add(self.policy.gradients())
        self._apply(sums)

    def _backward(self, batch: MicroBatch, sums: dict[str, float]) -> int:
        config = self.config.algorithm
        tokens, scores = self.policy.scores(batch, self.config.temperature)
        old = self._old_logprobs(batch, tokens, scores.logprobs)
        factor = correction(old, tokens.rollout_logprobs, tokens.sequence, config.off_policy)
        losses = policy_loss(
            scores.logprobs,
            old,
            tokens.advantages * factor,
            config.loss,
            weights=tokens.weights * factor,
            rollout_logprobs=tokens.rollout_logprobs,
            sequence=tokens.sequence,
            marked=gather(batch, self._marks) if self._marks else None,
        )
        losses = losses + self._evidence.loss_terms(batch, tokens, scores, self._scored, sums)
        loss = losses.sum()
        is_finite = bool(torch.isfinite(loss))
        text = "the loss is not finite; the step was not applied. Lower lr."
        self._peers.keep_step(None if is_finite else TrainingError(text))
        torch.autograd.backward(loss)
        with torch.no_grad():
            _measure(sums, tokens, scores.logprobs, old, scores.entropy, factor, loss)
        return len(tokens.targets)

    def _old_logprobs(self, batch: MicroBatch, tokens: TokenBatch, logprobs: Tensor) -> Tensor:
        """The ratio's anchor: the sampler's; or the policy's own before the update, which on a
        single pass are those of this very pass, so that the ratio is exactly 1."""
        if self.config.anchor == "rollout":
            return tokens.rollout_logprobs
        if self.config.is_single_pass:
            return logprobs.detach()
        return gather(batch, self._scored.old)

    def _marked(self, credited: list[Credited]) -> dict[int, Tensor]:
        """Which tokens of the mini-batch a covariance loss treats apart, by number."""
        trained = [c for c in credited if any(c.sample.loss_mask)]
        (now,) = score_samples(
            self.policy,
            [(c.number, c.sample) for c in trained],
            self.config.micro_batch_tokens,
            self.config.temperature,
            logprobs_of,
            peers=self._peers,
        )
        logprobs = torch.cat([now[c.number] for c in trained])
        rollout = torch.cat([_rollout_logprobs(c) for c in trained])
        is_old_known = self.config.anchor == "policy" and bool(self._scored.old)
        old = (
            torch.cat([self._scored.old[c.number] for c in trained])
            if is_old_known
            else (rollout if self.config.anchor == "rollout" else logprobs)
        )
        advantages = torch.cat([_plain_advantages(c) for c in trained])
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.num_updates)
        marks = mark_tokens(logprobs, old, advantages, self.config.algorithm.loss, generator)
        sizes = [len(now[c.number]) for c in trained]
        return {c.number: part for c, part in zip(trained, torch.split(marks, sizes))}

    def _apply(self, sums: dict[str, float]) -> None:
        config, done = self.config, self.num_updates + 1
        total = config.steps * config.epochs * config.mini_batches
        lr, norm = apply_gradient(self.policy, self.optimizer, config.optimizer, done, total)
        self._evidence.step()
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
    total_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
    norm = float(full(total_norm))
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


def has_only_advantages(config: TrainConfig) -> bool:
    """A token without advantage has no gradient, and nothing else looks at it."""
    loss, rule = LOSSES[config.algorithm.loss.name], config.algorithm.advantage
    has_critic = rule in TOKEN_RULES and TOKEN_RULES[rule].needs == "values"
    return not (loss.needs_marks or config.algorithm.kl.loss or has_critic)


def check_rollout_logprobs(credited: Sequence[Credited], config: TrainConfig) -> None:
    """Raise TrainingError when the sampler's are missing and something is anchored on them."""
    is_needed = config.anchor == "rollout" or config.algorithm.off_policy.is_active
    if not is_needed or config.algorithm.loss.name == "cross_entropy":
        return
    told = [float(x) for c in credited for x in _rollout_logprobs(c)]
    if told and (not all(map(math.isfinite, told)) or not any(told)):
        raise TrainingError(
            "rollout log-probabilities are missing, and the loss or the correction is anchored on "
            "them. Let the sampler report them, or set algorithm.anchor = 'policy' without "
            "off_policy."
        )


def _rollout_logprobs(one: Credited) -> Tensor:
    pairs = zip(one.sample.rollout_logprobs, one.sample.loss_mask)
    return torch.tensor([logprob for logprob, trained in pairs if trained])


def _plain_advantages(one: Credited) -> Tensor:
    """Of each trained token, without the reduction's weight."""
    if one.per_token is not None:
        return one.per_token.float()
    return torch.full((sum(one.sample.loss_mask),), one.advantage / one.weight)


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
