"""Adapters split over the ranks of a tensor-parallel network (Sheng et al. 2023, section 6).

    shard(weights, partition) -> LoraShard        what one rank holds; nothing is held twice
    sharded_bytes(packed, config, size)           what it takes of pages, of all ranks together
    ShardedDelta(rows, adapters, partition, group)   a `Delta` of the rank's decoder

The base is split as in `partition.py`. Only low-rank parts travel: of layers cut by outputs each
rank makes some of the R columns of [T, R] and all gather them, once for all layers that share an
input; of layers cut by inputs [T, R] is summed. What the second kind adds lies in a slice of its
own of the partial sums, so the base's all-reduce brings it to everybody for nothing.

Letters: T tokens, R rank of the adapter, K inputs, N outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from evolute.models.config import ModelConfig
from evolute.models.lora import Key, LoraWeights
from evolute.models.packed_lora import GROUPS, PackedLora
from evolute.models.partition import ROW_SPLIT, Partition, share, width

GROUP_OF = {module: group for group in GROUPS for module in group}


@runtime_checkable
class Group(Protocol):
    """The ranks that compute one network: processes, or a test's threads."""

    rank: int
    size: int

    def all_gather(self, x: Tensor) -> Tensor:
        """[N, *x.shape]: what every rank gave, by rank; all give the same shape."""
        ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks."""
        ...


@dataclass(frozen=True, slots=True)
class ShardPart:
    """One changed linear layer: shapes of the rank's A [a0, a1] and B [b0, b1]."""

    layer: int
    module: str
    a: tuple[int, int]
    b: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class LoraShard:
    """One rank's part of an adapter: of R or of K a part of A, of N a part of B. `flat` holds
    A and B of each part, one after the other."""

    scale: float
    parts: tuple[ShardPart, ...]
    flat: Tensor

    def tensors(self, flat: Tensor) -> dict[Key, tuple[Tensor, Tensor]]:
        """Views of `flat`, which may lie anywhere."""
        sizes = [math.prod(shape) for part in self.parts for shape in (part.a, part.b)]
        pieces = iter(torch.split(flat, sizes) if sizes else ())
        return {
            (part.layer, part.module): (next(pieces).view(part.a), next(pieces).view(part.b))
            for part in self.parts
        }


def shard(weights: LoraWeights, partition: Partition) -> LoraShard:
    """A copy of the rank's part, float32."""
    parts, pieces = list[ShardPart](), list[Tensor]()
    for (layer, module), (a, b) in weights.tensors.items():
        if not len(a):
            continue
        a_part, b_part = a[_a_slices(module, len(a), partition)], b[_b_rows(module, partition)]
        parts.append(ShardPart(layer, module, _shape(a_part), _shape(b_part)))
        pieces += [part.detach().float().flatten() for part in (a_part, b_part)]
    flat = torch.cat(pieces) if pieces else torch.zeros(0)
    return LoraShard(weights.scale, tuple(parts), flat)


def sharded_bytes(packed: PackedLora, config: ModelConfig, size: int) -> int:
    """Bytes in the pages of all ranks: as many times the largest part as there are ranks, since
    a page is cut evenly. With one rank the whole's own."""
    if size == 1:
        return packed.num_bytes
    most = 0
    for rank in range(size):
        partition, floats = Partition(config, rank, size), 0
        for part in packed.parts:
            rows, columns = _a_slices(part.module, part.rank, partition)
            floats += width(rows) * width(columns)
            floats += part.rank * width(_b_rows(part.module, partition))
        most = max(most, floats)
    return 4 * most * size


class ShardedDelta:
    """The adapters of one step on one rank. Every rank makes the same calls in the same order."""

    def __init__(
        self,
        rows: Mapping[int, Tensor],
        adapters: Mapping[int, tuple[float, dict[Key, tuple[Tensor, Tensor]]]],
        partition: Partition,
        group: Group,
    ) -> None:
        """By adapter: the rows of its sequences; its scale and its `LoraShard.tensors`."""
        self._rows, self._adapters = rows, adapters
        self._partition, self._group = partition, group
        self._low: dict[tuple[str, int], Tensor] = {}  # by module, adapter: [T, R]
        self._low_of: tuple[int, str] | None = None  # the layer and first module that `_low` is of

    def __call__(self, layer: int, module: str, x: Tensor) -> Tensor | None:
        """What is added to the rank's part of the outputs, or to its partial sums of them."""
        changed = [i for i, (_, tensors) in self._adapters.items() if (layer, module) in tensors]
        self._gather_once(layer, module, x)
        if not changed:
            return None
        held = self._partition.outputs(module)
        columns = _b_rows(module, self._partition) if module in ROW_SPLIT else slice(None)
        out = x.new_zeros(len(x), width(held))
        for index in changed:
            scale, tensors = self._adapters[index]
            added = (self._low[module, index] @ tensors[layer, module][1].T.to(x.dtype)) * scale
            out[self._rows[index], columns] = added
        return out

    def _gather_once(self, layer: int, module: str, x: Tensor) -> None:
        """All low-rank parts that are made of the same input, in one message."""
        group = GROUP_OF[module]
        if self._low_of == (layer, group[0]):
            return
        self._low_of, self._low = (layer, group[0]), {}
        found = [
            (name, index, tensors[layer, name])
            for name in group
            for index, (_, tensors) in self._adapters.items()
            if (layer, name) in tensors
        ]
        if not found:
            return
        size, is_sum = self._group.size, module in ROW_SPLIT
        ranks = [b.shape[1] for _, _, (_, b) in found]
        made = [x[self._rows[index]] @ a.T.to(x.dtype) for _, index, (a, _) in found]
        if not is_sum:  # where R is uneven the last ranks send a column of zeros
            made = [F.pad(low, (0, -(-r // size) - low.shape[1])) for low, r in zip(made, ranks)]
        sent = torch.cat([low.flatten() for low in made])
        got = self._group.all_reduce(sent)[None] if is_sum else self._group.all_gather(sent)
        pieces = torch.split(got, [low.numel() for low in made], dim=1)
        for (name, index, _), low, piece, rank in zip(found, made, pieces, ranks):
            self._low[name, index] = _joined(piece.view(len(got), *low.shape), rank)


# -- internals ---------------------------------------------------------------


def _shape(x: Tensor) -> tuple[int, int]:
    return x.shape[0], x.shape[1]


def _a_slices(module: str, rank: int, partition: Partition) -> tuple[slice, slice]:
    if module in ROW_SPLIT:
        return slice(0, rank), partition.inputs(module)
    return partition.share(rank), partition.inputs(module)


def _b_rows(module: str, partition: Partition) -> slice:
    rows = partition.outputs(module)
    return partition.share(rows.stop) if module in ROW_SPLIT else rows


def _joined(parts: Tensor, rank: int) -> Tensor:
    """[N, T, width] of all ranks -> [T, R]; parts may have a column more than the rank's own."""
    size, _, sent = parts.shape
    own = [width(share(rank, i, size)) for i in range(size)]
    if all(count == sent for count in own):
        return parts.transpose(0, 1).flatten(1)
    return torch.cat([part[:, :count] for part, count in zip(parts, own)], -1)
