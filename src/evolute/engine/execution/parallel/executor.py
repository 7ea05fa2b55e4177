"""An `Executor` over several processes: rank 0 is this one, and decides nothing alone.

    ParallelExecutor(config, weights, settings)
    the operations of `Executor`     each sent to all ranks, then done here
    ranks() -> list[RankCounts]      what each holds and has sent

    plan (scheduling, here) --arrays--> all ranks: embed, layers, head --logits--> here --> sampler

Commands go over socket pairs, each worker's in order, so a copy of an adapter that was sent before
a step is there when the step reads it. Sums and gathers of a step go through torch.distributed.
What can be refused is refused before anything is sent; what fails after that ends the executor, as
ranks that stopped at different places cannot go on together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import ExecutorLost, Float32, StepBatch
from evolute.engine.execution.parallel import worker
from evolute.engine.execution.parallel.channel import Array, Message
from evolute.engine.execution.parallel.group import TorchGroup, listen
from evolute.engine.execution.parallel.rank import RankExecutor, batch_arrays
from evolute.engine.execution.parallel.workers import Workers
from evolute.engine.execution.torch_executor import device_of
from evolute.models import ModelConfig, ModelWeights, PackedLora
from evolute.models.config import tensor_shapes
from evolute.models.lora_shards import LoraShard, shard
from evolute.models.partition import Partition
from evolute.types.settings import to_mapping

START_TIMEOUT_S = 300.0  # to import, to take the weights
COLLECTIVE_TIMEOUT_S = 60.0  # a rank that is so late counts as lost


@dataclass(frozen=True, slots=True)
class RankCounts:
    """`page_bytes` of all its pages; `sent_floats` in sums and gathers, as a ring sends them."""

    rank: int
    pid: int
    weight_bytes: int
    page_bytes: int
    sent_floats: float


class ParallelExecutor:
    """Called by the engine's thread; `write_adapter` by any."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, settings: Resolved) -> None:
        """Begins the processes and gives each its part. Raises ExecutorLost when one cannot."""
        chosen, size = settings.config, settings.config.tensor_parallel
        device = device_of(chosen, 0)
        self._partitions = [Partition(config, rank, size) for rank in range(size)]
        self._on_lost: Callable[[Exception], None] | None = None
        self._group: TorchGroup | None = None
        self._num_threads = max(chosen.num_threads // size, 1)
        self._indices: set[int] = set()  # of adapters that are set
        self._settings = settings
        self._workers = Workers(size - 1, self._num_threads, self._tell_lost)
        try:
            store, port = listen(COLLECTIVE_TIMEOUT_S)
            self._set_up(weights)
            self._connect(port)
            self._group = TorchGroup(store, 0, size, device, COLLECTIVE_TIMEOUT_S)
            mine = self._partitions[0]
            self._own = RankExecutor(mine, mine.weights(weights), settings, self._group)
            self._receive("ready", START_TIMEOUT_S)
        except RuntimeError as error:
            lost = self._workers.lost
            self.close()
            raise lost or ExecutorLost(f"tensor parallelism could not begin: {error}") from None
        except BaseException:
            self.close()
            raise

    # -- an Executor ---------------------------------------------------------------

    def forward(self, batch: StepBatch) -> Float32:
        self._check(batch)
        if torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        self._send("forward", batch_arrays(batch))
        try:
            logits = self._own.forward(batch)
        except Exception as error:
            raise self._workers.explain(error) from None
        if self._workers.lost:  # an aborted collective returns, with anything
            raise self._workers.lost
        return logits

    def write_adapter(self, adapter: PackedLora, pages: Sequence[int]) -> None:
        where = [int(page) for page in pages]
        for rank, part in self._shards(adapter):
            if rank:
                flat = {"flat": part.flat.numpy()}
                self._workers.send(rank, "write", flat, pages=where, **worker.shard_to(part))
            else:
                self._own.write_shard(part, where)

    def set_adapter(
        self, index: int, adapter: PackedLora, pages: Sequence[int] | None = None
    ) -> None:
        where = None if pages is None else [int(page) for page in pages]
        for rank, part in self._shards(adapter):
            if rank:
                flat = {"flat": part.flat.numpy()} if where is None else {}
                meta = {"index": index, "pages": where}
                self._workers.send(rank, "set", flat, **meta, **worker.shard_to(part))
            else:
                self._own.set_shard(index, part, where)
        self._indices.add(index)

    def drop_adapter(self, index: int) -> None:
        self._indices.discard(index)
        self._send("drop", index=index)
        self._own.drop_adapter(index)

    def set_weights(self, weights: ModelWeights) -> None:
        dense = ModelWeights({name: weights.dense(name) for name in weights})
        dense.check(tensor_shapes(self._partitions[0].whole))
        for rank, partition in enumerate(self._partitions[1:], 1):
            self._workers.send(rank, "weights", _arrays(partition.weights(dense)))
        self._own.set_weights(self._partitions[0].weights(dense))
        self._receive("done", START_TIMEOUT_S)

    def read_weight(self, name: str, count: int) -> Float32:
        """Put together from all ranks."""
        shape = tensor_shapes(self._partitions[0].whole)[name]
        rows = min(count, shape[0])
        found = np.empty((rows, *shape[1:]), np.float32)
        for rank in reversed(range(len(self._partitions))):  # rank 0 has what is added once
            where = self._partitions[rank].slices(name)
            first, end, _ = where[0].indices(shape[0])
            end = min(end, rows)
            if first < end:
                part = self._read_rows(rank, name, end - first)
                found[(slice(first, end), *where[1:])] = part
        return found

    def set_num_threads(self, num_threads: int) -> None:
        """Shared by the ranks, at least one each."""
        self._num_threads = max(num_threads // len(self._partitions), 1)
        self._send("threads", count=self._num_threads)

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        self._on_lost = on_lost
        if self._workers.lost:
            on_lost(self._workers.lost)

    def close(self) -> None:
        self._workers.close()
        if self._group is not None:
            self._group.abort()

    def ranks(self) -> list[RankCounts]:
        """Between two steps."""
        self._send("count")
        all_of_them = [worker.counts_of(self._own)]
        all_of_them += [message.meta for message in self._receive("done", COLLECTIVE_TIMEOUT_S)]
        return [
            RankCounts(
                rank,
                int(counts["pid"]),
                int(counts["weight_bytes"]),
                int(counts["page_bytes"]),
                counts["sent_floats"],
            )
            for rank, counts in enumerate(all_of_them)
        ]

    # -- internals -------------------------------------------------------------------

    @property
    def _others(self) -> Iterable[int]:
        return range(1, len(self._partitions))

    def _set_up(self, weights: ModelWeights) -> None:
        chosen = self._settings.config
        for rank in self._others:
            self._workers.send(
                rank,
                "setup",
                _arrays(self._partitions[rank].weights(weights)),
                rank=rank,
                config=to_mapping(chosen),
                num_pages=self._settings.num_pages,
                page_bytes=self._settings.page_bytes,
                num_threads=self._num_threads,
                model=worker.model_to(self._partitions[0].whole),
            )

    def _connect(self, port: int) -> None:
        """All are there first: who waits for ranks in torch does not see one die."""
        self._receive("loaded", START_TIMEOUT_S)
        self._send("connect", port=port, timeout_s=COLLECTIVE_TIMEOUT_S)

    def _send(self, op: str, arrays: dict[str, Array] | None = None, **meta: object) -> None:
        for rank in self._others:
            self._workers.send(rank, op, arrays, **meta)

    def _receive(self, op: str, timeout_s: float) -> list[Message]:
        return [self._workers.receive(rank, op, timeout_s) for rank in self._others]

    def _read_rows(self, rank: int, name: str, count: int) -> Float32:
        if not rank:
            return self._own.read_rows(name, slice(0, count))
        self._workers.send(rank, "read", name=name, rows=[0, count])
        answer = self._workers.receive(rank, "done", COLLECTIVE_TIMEOUT_S)
        values: Float32 = answer.arrays["values"]
        return values

    def _shards(self, adapter: PackedLora) -> Iterable[tuple[int, LoraShard]]:
        weights = adapter.unpack()
        for rank, partition in enumerate(self._partitions):
            yield rank, shard(weights, partition)

    def _check(self, batch: StepBatch) -> None:
        """What one rank would stumble over must not be sent to any."""
        if self._workers.lost:
            raise self._workers.lost
        limits = (
            ("token", batch.token_ids, self._partitions[0].whole.vocab_size),
            ("position", batch.positions, self._partitions[0].whole.context),
            ("page", batch.page_table, self._settings.num_pages),
        )
        for what, values, limit in limits:
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise IndexError(f"a {what} outside 0 to {limit - 1} in a step")
        unknown = set(batch.adapter[batch.adapter >= 0].tolist()) - self._indices
        if unknown:
            raise KeyError(f"adapters {sorted(unknown)} are not loaded")

    def _tell_lost(self, why: ExecutorLost) -> None:
        if self._group is not None:
            self._group.abort()
        if self._on_lost is not None:
            self._on_lost(why)


def _arrays(weights: ModelWeights) -> dict[str, Array]:
    return {name: weights.dense(name).numpy() for name in weights}
