"""Passes without gradients: what a policy says of samples before the update.

score_samples(policy, samples, budget, temperature, read) -> tensors by number
gather(batch, by_number) -> one tensor in the order of a micro-batch's trained tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from evolute.train.parallel import Alone, Peers, spread
from evolute.train.policy import Policy, Scores
from evolute.train.rollouts.packing import Credited, MicroBatch
from evolute.types import TrainingSample

Read = Callable[[Scores], Tensor]


def logprobs_of(scores: Scores) -> Tensor:
    return scores.logprobs


def score_samples(
    policy: Policy,
    samples: Sequence[tuple[int, TrainingSample]],
    budget: int,
    temperature: float,
    *reads: Read,
    peers: Peers = Alone(),  # noqa: B008
) -> list[dict[int, Tensor]]:
    """For each of `reads`, what it takes from the scores, by the samples' numbers: one value for
    each trained token. The passes are packed as those of training, so that they agree to the bit
    when the budget and the samples are the same. Each of the peers scores its part, and all get
    the whole."""
    found: list[dict[int, Tensor]] = [{} for _ in reads]
    share = spread([Credited(sample, 0, 1.0, n) for n, sample in samples], budget, peers)
    with torch.no_grad():
        for batch in share.mine:
            members = [member for group in batch for member in group.members]
            sizes = [sum(member.sample.loss_mask) for member in members]
            _, scores = policy.scores(batch, temperature)
            for by_number, read in zip(found, reads):
                for member, part in zip(members, torch.split(read(scores).detach(), sizes)):
                    by_number[member.number] = part.clone()
        for batch in share.idle:
            policy.scores(batch, temperature)
    return [peers.union(by_number) for by_number in found]


def gather(batch: MicroBatch, by_number: Mapping[int, Tensor]) -> Tensor:
    """Values of the trained tokens of a micro-batch, in its order."""
    return torch.cat([by_number[m.number] for group in batch for m in group.members])
