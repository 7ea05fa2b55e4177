"""One supervised update: weights baked in -> micro-batches -> gradient -> AdamW.

    SftTrainer(policy, config, num_steps).update(samples) -> UpdateReport

The loss is the mean negative log-probability of the trained tokens of the whole step, whatever the
micro-batches are. Checked while it runs, and the step is not applied when it fails: every masked
token is trained exactly once, loss and gradient are finite.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from evolute.train.policy import Policy
from evolute.train.rollouts.packing import Credited, MicroBatch, pack
from evolute.train.settings import OptimizerConfig
from evolute.train.sft.settings import SftConfig
from evolute.train.trainer import UpdateReport, apply_gradient, make_optimizer
from evolute.types import TrainingError, TrainingSample


class SftTrainer:
    """Owns the optimizer; the policy's weights are changed in place."""

    def __init__(self, policy: Policy, config: SftConfig, num_steps: int) -> None:
        self.policy, self.config, self._num_steps = policy, config, num_steps
        self.optimizer = make_optimizer(policy, config.optimizer)
        self.num_updates = 0

    def update(self, samples: Sequence[TrainingSample]) -> UpdateReport:
        """Train on the samples of one step. Raises TrainingError, with nothing changed."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        credited = weighted(samples)
        expected = sum(sum(sample.loss_mask) for sample in samples)
        trained, loss, entropy = 0, 0.0, 0.0
        for batch in pack(credited, self.config.micro_batch_tokens):
            count, part, spread = self._backward(batch)
            trained, loss, entropy = trained + count, loss + part, entropy + spread
        if trained != expected:
            raise TrainingError(f"{trained} tokens were trained, the masks hold {expected}.")
        metrics = {"loss": loss, "entropy": entropy / trained} | self._apply()
        metrics["update_s"] = time.perf_counter() - started
        return UpdateReport(trained, metrics)

    # -- internals ---------------------------------------------------------------

    def _backward(self, batch: MicroBatch) -> tuple[int, float, float]:
        """Trained tokens, their part of the loss, and the sum of their entropies."""
        tokens, scores = self.policy.scores(batch, 1.0)
        loss = -(scores.logprobs * tokens.advantages).sum()
        if not torch.isfinite(loss):
            raise TrainingError("the loss is not finite; the step was not applied. Lower lr.")
        torch.autograd.backward(loss)
        return len(tokens.targets), float(loss.detach()), float(scores.entropy.sum())

    def _apply(self) -> dict[str, float]:
        settings: OptimizerConfig = self.config.optimizer
        done = self.num_updates + 1
        lr, norm = apply_gradient(self.policy, self.optimizer, settings, done, self._num_steps)
        self.num_updates = done
        return {"lr": lr, "grad_norm": norm}


def weighted(samples: Sequence[TrainingSample]) -> list[Credited]:
    """Each trained token weighs the same; samples with one prompt share its computation. Raises
    TrainingError when there is no trained token."""
    num_tokens = sum(sum(sample.loss_mask) for sample in samples)
    if not num_tokens:
        raise TrainingError("no token of the step is trained; the masks are empty.")
    return [Credited(sample, 0, 1 / num_tokens, n) for n, sample in enumerate(samples)]
