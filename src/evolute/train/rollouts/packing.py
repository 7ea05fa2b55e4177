"""Training samples of a group laid out so that their prompt is computed once.

    [prompt | response 1 | response 2 | ...]      positions restart after the prompt

A micro-batch holds whole groups, or a part of one, within a token budget. Splitting changes
memory and time, never the loss: weights are baked in before (`algorithms/reductions.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from evolute.types import TrainingSample


@dataclass(frozen=True, slots=True)
class Credited:
    """A training sample with the weight of each of its trained tokens."""

    sample: TrainingSample
    group: int
    advantage: float  # reduction weight included; with per_token the largest, in size
    number: int  # of the sequence in the batch
    weight: float = 1.0  # the reduction's
    per_token: Tensor | None = field(default=None, compare=False)  # advantages without weight
    returns: Tensor | None = field(default=None, compare=False)  # what a critic should say

    def scaled(self, factor: float) -> Credited:
        """The same with all weights times `factor`."""
        return replace(self, advantage=self.advantage * factor, weight=self.weight * factor)


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """Responses to one prompt."""

    prompt: tuple[int, ...]
    members: tuple[Credited, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + sum(len(m.sample.response_ids) for m in self.members)


MicroBatch = tuple[PackedGroup, ...]


def pack(samples: Iterable[Credited], budget: int) -> list[MicroBatch]:
    """Micro-batches of at most `budget` tokens; a single longer sample stands alone."""
    by_prompt: dict[tuple[int, tuple[int, ...]], list[Credited]] = {}
    for one in samples:
        if any(one.sample.loss_mask):
            by_prompt.setdefault((one.group, one.sample.prompt_ids), []).append(one)
    batches: list[list[PackedGroup]] = []
    used = budget
    for (_, prompt), members in by_prompt.items():
        for part in _parts(len(prompt), members, budget):
            group = PackedGroup(prompt, tuple(part))
            if not batches or used + group.num_tokens > budget:
                batches.append([])
                used = 0
            batches[-1].append(group)
            used += group.num_tokens
    return [tuple(batch) for batch in batches]


def _parts(prompt: int, members: Sequence[Credited], budget: int) -> list[list[Credited]]:
    parts: list[list[Credited]] = []
    used = budget
    for member in sorted(members, key=lambda m: -len(m.sample.response_ids)):
        size = len(member.sample.response_ids)
        if not parts or used + size > budget:
            parts.append([])
            used = prompt
        parts[-1].append(member)
        used += size
    return parts
