"""An adapter split over the ranks of a tensor-parallel model (Sheng et al. 2023, section 6).

    shard(weights, rank, size) -> LoraShard        what one rank holds; nothing is held twice
    shard.column(layer, module, x, group)          q, k, v, gate, up: adds to the rank's own outputs
    shard.row(layer, module, x_part, group)        o, down: adds before the base's own all-reduce

The base is split as in Megatron (Shoeybi et al. 2019): outputs of q, k, v, gate, up; inputs of o,
down. Only low-rank parts travel: an all-gather of [T, R] for each of the first kind, an all-reduce
of [T, R] for each of the second; what the second adds lies in a slice of its own of the partial
sums, so the base's all-reduce brings it to everybody for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from evolute.models.lora import MODULES, Key, LoraWeights

ROW_SPLIT = ("o_proj", "down_proj")
COLUMN_SPLIT = tuple(module for module in MODULES if module not in ROW_SPLIT)


@runtime_checkable
class Group(Protocol):
    """The ranks that compute one model; torch.distributed, or a test's threads."""

    rank: int
    size: int

    def all_gather(self, x: Tensor) -> Tensor:
        """The ranks' parts, one beside the other along the last axis; they may differ in width."""
        ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoraShard:
    """One rank's A [R, K] and B [N, R] by (layer, module): of R or of K a part, of N a part."""

    scale: float
    tensors: dict[Key, tuple[Tensor, Tensor]]

    def column(self, layer: int, module: str, x: Tensor, group: Group) -> Tensor | None:
        """From the whole input [T, K] to the rank's part of the outputs."""
        pair = self.tensors.get((layer, module))
        if pair is None:
            return None
        low = group.all_gather(x @ pair[0].T)
        return (low @ pair[1].T) * self.scale

    def row(self, layer: int, module: str, x_part: Tensor, partial: Tensor, group: Group) -> Tensor:
        """From the rank's part of the input: `partial` [T, N], with this rank's slice of what the
        adapter adds. The caller's all-reduce of it is the layer's output."""
        pair = self.tensors.get((layer, module))
        if pair is None:
            return partial
        low = group.all_reduce(x_part @ pair[0].T)
        first, end = _bounds(partial.shape[1], group.rank, group.size)
        out = partial.clone()
        out[:, first:end] += (low @ pair[1].T) * self.scale
        return out


def shard(weights: LoraWeights, rank: int, size: int) -> LoraShard:
    """Raises ValueError unless 0 <= rank < size."""
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} of a group of {size}; ranks run from 0 to {size - 1}.")
    tensors = {}
    for (layer, module), (a, b) in weights.tensors.items():
        part = _part(a, rank, size, axis=1 if module in ROW_SPLIT else 0)
        tensors[layer, module] = (part, _part(b, rank, size, axis=0))
    return LoraShard(weights.scale, tensors)


# -- internals ---------------------------------------------------------------


def _bounds(width: int, rank: int, size: int) -> tuple[int, int]:
    """As torch.tensor_split cuts it: the first parts are one larger where it does not come out."""
    each, more = divmod(width, size)
    first = rank * each + min(rank, more)
    return first, first + each + (rank < more)


def _part(x: Tensor, rank: int, size: int, axis: int) -> Tensor:
    return torch.tensor_split(x.detach(), size, dim=axis)[rank].contiguous()
