"""What does one rank compute? Its heads, its rows of the vocabulary, on its slice of the pages.

    RankExecutor(partition, weights, settings, group)
        forward(batch) -> logits [R, V] at rank 0, nothing elsewhere
        write_shard(shard, pages), set_shard(index, shard, pages), drop_adapter(index)
        read_rows(name, rows)
    batch_arrays(batch), batch_of(arrays)     a step's plan as arrays

All ranks get the same calls in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import Float32, Int32, StepBatch
from evolute.engine.execution.parallel.group import TorchGroup
from evolute.engine.execution.torch_executor import TorchExecutor
from evolute.models import Delta, ModelWeights
from evolute.models.lora_shards import LoraShard, ShardedDelta
from evolute.models.partition import Partition, share, width


class RankExecutor(TorchExecutor):
    """One rank's part of each step."""

    def __init__(
        self, partition: Partition, weights: ModelWeights, settings: Resolved, group: TorchGroup
    ) -> None:
        """`weights` are the rank's part, of `partition.weights`."""
        super().__init__(partition.config, weights, settings, partition.rank)
        self.partition, self.group = partition, group
        self.decoder.first_token = partition.share(partition.whole.vocab_size).start
        self._shards: dict[int, tuple[LoraShard, list[int] | None]] = {}

    @property
    def weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.decoder.parameters())

    @property
    def pool_bytes(self) -> int:
        """Of all pages."""
        return sum(x.numel() * x.element_size() for x in [*self._keys, *self._values])

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Float32:
        local = self._logits(self._hidden(batch, self.group.all_reduce))
        sizes = [
            width(share(self.partition.whole.vocab_size, rank, self.partition.size))
            for rank in range(self.partition.size)
        ]
        padded = F.pad(local, (0, max(sizes) - local.shape[1]))
        parts = self.group.gather(padded)
        if not parts:
            return local[:0].float().cpu().numpy()
        whole = torch.cat([part[:, :size] for part, size in zip(parts, sizes)], -1)
        logits: Float32 = whole.float().cpu().numpy()
        return logits

    def write_shard(self, shard: LoraShard, pages: Sequence[int]) -> None:
        self._write(shard.flat, pages)

    def set_shard(self, index: int, shard: LoraShard, pages: Sequence[int] | None) -> None:
        """With `pages` only the shard's shapes are used: its values lie there."""
        self._shards[index] = (shard, None if pages is None else list(pages))

    def drop_adapter(self, index: int) -> None:
        self._shards.pop(index, None)

    def read_rows(self, name: str, rows: slice) -> Float32:
        """Of the rank's part of a weight."""
        values = dict(self.decoder.named_parameters())[name].detach()[rows]
        found: Float32 = values.float().cpu().numpy()
        return found

    def _delta(self, rows: Mapping[int, Tensor]) -> Delta | None:
        if not rows:
            return None
        adapters = {}
        for index in rows:
            shard, pages = self._shards[index]
            count = sum(a[0] * a[1] + b[0] * b[1] for a, b in ((p.a, p.b) for p in shard.parts))
            flat = shard.flat if pages is None else self._read(pages, count)
            adapters[index] = (shard.scale, shard.tensors(flat.to(self._device)))
        return ShardedDelta(rows, adapters, self.partition, self.group)


def batch_arrays(batch: StepBatch) -> dict[str, Int32]:
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def batch_of(arrays: Mapping[str, Int32]) -> StepBatch:
    return StepBatch(**arrays)
