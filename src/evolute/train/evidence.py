"""What an algorithm needs beside rewards: old scores, a reference, a teacher, a critic.

    Evidence(policy, config, reference, teacher)
    .of(rollouts) -> Scored              passes before the update, only those that are needed
    .loss_terms(batch, ...) -> [N]       the KL's part of each token's loss; the critic's gradient
    .step(), .after(scored, sums)        the critic's step; the coefficient of the KL for the next

The critic's values and the policy's log-probabilities come from one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from evolute.train.algorithms import TOKEN_RULES, AdaptiveKl, kl_estimate
from evolute.train.credit import Scored, numbered
from evolute.train.critic import Critic
from evolute.train.parallel import Alone, Peers
from evolute.train.policy import Policy, Scores, TokenBatch
from evolute.train.rollouts.packing import MicroBatch
from evolute.train.scoring import Read, gather, logprobs_of, score_samples
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError, Rollout, TrainingSample


class Evidence:
    """Belongs to one trainer; keeps the KL's coefficient and the critic."""

    def __init__(
        self,
        policy: Policy,
        config: TrainConfig,
        reference: Policy | None = None,
        teacher: Policy | None = None,
        peers: Peers = Alone(),  # noqa: B008
    ) -> None:
        self._policy, self._config, self._peers = policy, config, peers
        self._reference, self._teacher = reference, teacher
        self._kl = AdaptiveKl(config.algorithm.kl)
        rule = config.algorithm.advantage
        needs = TOKEN_RULES[rule].needs if rule in TOKEN_RULES else ""
        width = policy.decoder.config.width
        self._critic = Critic(width, config.algorithm.critic) if needs == "values" else None
        if needs == "teacher" and teacher is None:
            raise ConfigError(f"advantage {rule!r} needs a teacher; give the trainer one.")
        if config.algorithm.kl.is_active and policy.lora is None and reference is None:
            raise ConfigError("a KL with method 'full' needs the model before training beside it.")

    def of(self, rollouts: Sequence[Rollout]) -> Scored:
        """Everything the step needs, by number of the sample."""
        config, kl = self._config, self._config.algorithm.kl
        is_anchor = config.anchor == "policy" and not config.is_single_pass
        needs_old = is_anchor or kl.reward > 0 or self._critic is not None
        if not (needs_old or kl.is_active or self._teacher):
            return Scored()
        samples = [
            (n, member.sample) for n, member in enumerate(numbered(rollouts, config.failures))
        ]
        old, values = self._own(samples) if needs_old else ({}, {})
        reference = self._of_reference(samples) if kl.is_active else {}
        teacher = self._logprobs(self._teacher, samples) if self._teacher else {}
        penalty: dict[int, Tensor] = {}
        if kl.reward > 0:
            penalty = {
                n: self._kl.coefficient * kl_estimate(old[n], reference[n], kl.kind).double()
                for n in old
            }
        return Scored(old, reference, teacher, values, penalty)

    def loss_terms(
        self,
        batch: MicroBatch,
        tokens: TokenBatch,
        scores: Scores,
        scored: Scored,
        sums: dict[str, float],
    ) -> Float[Tensor, " N"]:
        """Weighted KL of each token, 0 when it is off."""
        kl = self._config.algorithm.kl
        if self._critic is not None:
            members = [member for group in batch for member in group.members]
            returns = torch.cat([m.returns.float() for m in members if m.returns is not None])
            old = gather(batch, scored.values)
            sums["critic"] += self._critic.loss(scores.hidden, old, returns, tokens.weights)
        if kl.loss <= 0:
            return torch.zeros_like(scores.logprobs)
        estimate = kl_estimate(scores.logprobs, gather(batch, scored.reference), kl.kind)
        sums["kl"] += float(estimate.detach().sum())
        return self._kl.coefficient * estimate * tokens.weights

    def step(self) -> None:
        if self._critic is not None:
            if self._peers.size > 1:
                self._peers.add(self._critic.gradients())
            self._critic.step()

    def after(self, scored: Scored, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of what is in use; the coefficient moves for the next step."""
        kl = self._config.algorithm.kl
        found: dict[str, float] = {}
        if self._critic is not None:
            found["critic_loss"] = sums["critic"] / max(sums["updates"], 1)
        if kl.is_active and (scored.penalty or sums["tokens"]):
            mean = sums["kl"] / max(sums["tokens"], 1)
            if kl.reward > 0:
                tokens = sum(len(part) for part in scored.old.values())
                kls = [kl_estimate(scored.old[n], scored.reference[n], kl.kind) for n in scored.old]
                mean = sum(float(part.sum()) for part in kls) / max(tokens, 1)
            found |= {"kl": mean, "kl_coefficient": self._kl.coefficient}
            self._kl.update(mean, len(scored.reference))
        return found

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; nothing when there is nothing to keep."""
        found: dict[str, Tensor] = {}
        if self._config.algorithm.kl.target > 0:
            found["kl_coefficient"] = torch.tensor(self._kl.coefficient, dtype=torch.float64)
        if self._critic is not None:
            found |= {f"critic.{name}": value for name, value in self._critic.state().items()}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        if "kl_coefficient" in state:
            self._kl.coefficient = float(state["kl_coefficient"])
        if self._critic is not None:
            prefix = "critic."
            own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            self._critic.load(own)

    # -- internals ---------------------------------------------------------------

    def _own(
        self, samples: list[tuple[int, TrainingSample]]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        reads: list[Read] = [logprobs_of]
        if self._critic is not None:
            critic = self._critic
            reads.append(lambda scores: critic.values(scores.hidden))
        found = self._scores(self._policy, samples, reads)
        return found[0], found[1] if len(found) > 1 else {}

    def _of_reference(self, samples: list[tuple[int, TrainingSample]]) -> dict[int, Tensor]:
        if self._reference is not None:
            return self._logprobs(self._reference, samples)
        with self._policy.without_adapter():
            return self._logprobs(self._policy, samples)

    def _logprobs(
        self, policy: Policy, samples: list[tuple[int, TrainingSample]]
    ) -> dict[int, Tensor]:
        return self._scores(policy, samples, [logprobs_of])[0]

    def _scores(
        self, policy: Policy, samples: list[tuple[int, TrainingSample]], reads: list[Read]
    ) -> list[dict[int, Tensor]]:
        config = self._config
        budget, temperature = config.micro_batch_tokens, config.temperature
        return score_samples(policy, samples, budget, temperature, *reads, peers=self._peers)
