"""Which token earns how much? Rollouts of a step -> samples with advantages and weights.

    numbered(rollouts, failures)             the samples that count, in the order of their numbers
    credit(rollouts, config, scored, limit)  -> list[Credited]

Rewards are shaped first (overlong penalty, KL), then credited within groups or along tokens, then
weighed by the reduction over what is kept. Failed rollouts are out of everything; truncated ones
may be out of the gradient only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from evolute.train.algorithms import (
    RULES,
    TokenEvidence,
    gae,
    group_advantages,
    is_useful,
    overlong_penalty,
    token_advantages,
    token_weights,
    whiten,
)
from evolute.train.failures import is_compared, is_trained
from evolute.train.rollouts.packing import Credited
from evolute.train.settings import FailureConfig, TrainConfig
from evolute.types import Outcome, Rollout, TrainingError, TrainingSample

NO_SAMPLE = TrainingSample((), (), (), ())


@dataclass(frozen=True, slots=True)
class Numbered:
    """A sample of a valid rollout; its number is its place in the list."""

    rollout: Rollout
    sample: TrainingSample
    place: int  # of the rollout among the valid ones, in this order


@dataclass(frozen=True, slots=True)
class Scored:
    """What passes before the update found, by number: a tensor over the trained tokens."""

    old: dict[int, Tensor] = field(default_factory=dict)
    reference: dict[int, Tensor] = field(default_factory=dict)
    teacher: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    penalty: dict[int, Tensor] = field(default_factory=dict)  # KL x coefficient, off the reward


def numbered(rollouts: Sequence[Rollout], failures: FailureConfig) -> list[Numbered]:
    """Samples of the rollouts that count in their group's statistics, siblings together."""
    by_group: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        if is_compared(rollout, failures):
            by_group[rollout.group].append(rollout)
    valid = [rollout for members in by_group.values() for rollout in members]
    return [
        Numbered(r, sample, place)
        for place, r in enumerate(valid)
        for sample in r.samples or (NO_SAMPLE,)  # its reward counts all the same
    ]


def credit(
    rollouts: Sequence[Rollout], config: TrainConfig, scored: Scored | None = None
) -> list[Credited]:
    """Advantages with the reduction's weight. `scored` holds what the algorithm needs beside
    rewards. Raises TrainingError when the advantages of a group do not sum to zero."""
    scored, members = scored or Scored(), numbered(rollouts, config.failures)
    returns: dict[int, Tensor] = {}
    per_token: dict[int, Tensor] = {}
    rewards = _rewards(members, config, scored)
    if config.algorithm.advantage in RULES:
        advantages = _by_group(members, rewards, config.algorithm.advantage)
        if config.algorithm.normalize:
            per_token = _spread(members, advantages)
    else:
        per_token, returns = _by_token(members, rewards, config, scored)
        advantages = [0.0] * len(members)
    if config.algorithm.normalize:
        per_token = dict(zip(per_token, whiten(list(per_token.values()))))
    kept = _kept(members, config)
    weights = dict(zip(kept, _weights([members[n] for n in kept], config)))
    made = []
    for n in kept:
        credited, weight = per_token.get(n), weights[n]
        size = advantages[n] if credited is None else _largest(credited)
        sample, group = members[n].sample, members[n].rollout.group
        made.append(Credited(sample, group, size * weight, n, weight, credited, returns.get(n)))
    return made


# -- internals ---------------------------------------------------------------


def _rewards(members: Sequence[Numbered], config: TrainConfig, scored: Scored) -> dict[int, float]:
    """By place of the rollout: the world's reward, less what length costs: that of its longest
    turn, since max_new_tokens limits a turn. The KL is taken off whole here for rules of one number
    a rollout; token rules take it off where it arises."""
    chosen = config.algorithm.selection
    rewards: dict[int, float] = {}
    lengths: dict[int, int] = defaultdict(int)
    for member in members:
        rewards[member.place] = float(member.rollout.reward)
        turns = (len(list(run)) for said, run in groupby(member.sample.loss_mask) if said)
        lengths[member.place] = max(lengths[member.place], *turns, 0)
    if chosen.penalty_tokens:
        for place, length in lengths.items():
            rewards[place] += overlong_penalty(
                length, config.max_new_tokens, chosen.penalty_tokens, chosen.penalty
            )
    if config.algorithm.advantage in RULES:
        for number, penalty in scored.penalty.items():
            rewards[members[number].place] -= float(penalty.sum())
    return rewards


def _by_group(members: Sequence[Numbered], rewards: dict[int, float], rule: str) -> list[float]:
    """One advantage a sample: its rollout's."""
    places: dict[int, dict[int, None]] = defaultdict(dict)
    for member in members:
        places[member.rollout.group][member.place] = None
    found: dict[int, float] = {}
    for group in places.values():
        advantages = group_advantages([rewards[place] for place in group], rule)
        scale = max(1.0, *map(abs, advantages)) * len(advantages)
        if RULES[rule].sums_to_zero and abs(sum(advantages)) > 1e-6 * scale:
            raise TrainingError("the advantages of a group do not sum to zero.")
        found |= zip(group, advantages)
    return [found[member.place] for member in members]


def _by_token(
    members: Sequence[Numbered], rewards: dict[int, float], config: TrainConfig, scored: Scored
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Advantages, and returns for the critic, by number."""
    algorithm = config.algorithm
    if len({member.place for member in members}) != len(members):
        raise TrainingError(
            f"advantage {algorithm.advantage!r} follows the order of tokens, but a rollout came as "
            f"several samples. Use one of: {', '.join(RULES)}."
        )
    numbers = [n for n, member in enumerate(members) if any(member.sample.loss_mask)]
    evidence = [_evidence(n, members[n], rewards, scored) for n in numbers]
    found = token_advantages(
        evidence, algorithm.advantage, gamma=algorithm.gamma, lam=algorithm.lam
    )
    returns: dict[int, Tensor] = {}
    for number, one in zip(numbers, evidence):
        if one.values is not None:
            returns[number] = gae(one.rewards, one.values, algorithm.gamma, algorithm.lam)[1]
    return dict(zip(numbers, found)), returns


def _evidence(
    number: int, member: Numbered, rewards: dict[int, float], scored: Scored
) -> TokenEvidence:
    """The reward stands on the last trained token; a KL penalty where it arises."""
    sample = member.sample
    sampled = [logp for logp, trained in zip(sample.rollout_logprobs, sample.loss_mask) if trained]
    earned = torch.zeros(len(sampled), dtype=torch.float64)
    earned[-1] = rewards[member.place]
    if number in scored.penalty:
        earned -= scored.penalty[number]
    values, teacher = scored.values.get(number), scored.teacher.get(number)
    return TokenEvidence(
        earned,
        torch.tensor(sampled, dtype=torch.float64),
        None if values is None else values.double(),
        None if teacher is None else teacher.double(),
    )


def _spread(members: Sequence[Numbered], advantages: Sequence[float]) -> dict[int, Tensor]:
    counts = [sum(member.sample.loss_mask) for member in members]
    return {
        n: torch.full((count,), advantage, dtype=torch.float64)
        for n, (count, advantage) in enumerate(zip(counts, advantages))
        if count
    }


def _kept(members: Sequence[Numbered], config: TrainConfig) -> list[int]:
    """Numbers of the samples that may have a gradient and count in the reduction."""
    chosen = config.algorithm.selection
    by_group: dict[int, dict[int, float]] = defaultdict(dict)
    for member in members:
        by_group[member.rollout.group][member.place] = member.rollout.reward
    useful = {group: is_useful(list(found.values())) for group, found in by_group.items()}
    return [
        n
        for n, member in enumerate(members)
        if is_trained(member.rollout, config.failures)
        and (not chosen.overlong or member.rollout.outcome is not Outcome.TRUNCATED)
        and (not chosen.zero_variance or useful[member.rollout.group])
    ]


def _weights(members: Sequence[Numbered], config: TrainConfig) -> list[float]:
    """Of each token of a sample. What a reduction calls a sequence is a whole rollout here, so that
    one whose history was rewritten, and came as several samples, has no more weight."""
    lengths: dict[int, int] = defaultdict(int)
    groups: dict[int, int] = {}
    for member in members:
        lengths[member.place] += sum(member.sample.loss_mask)
        groups[member.place] = member.rollout.group
    longest = config.algorithm.max_length or config.max_new_tokens
    longest = longest or max(lengths.values(), default=1)
    reduction, sizes = config.algorithm.reduction, list(lengths.values())
    weights = token_weights(reduction, sizes, list(groups.values()), longest)
    by_place = dict(zip(lengths, weights))
    return [by_place[member.place] for member in members]


def _largest(advantages: Tensor) -> float:
    return float(advantages[advantages.abs().argmax()]) if len(advantages) else 0.0
