"""The plain way to compute a step: the torch decoder with keys and values gathered by page.

The oracle for the native executor, what runs where no kernels were built, and (`parallel/`) what
each rank of a tensor-parallel engine runs on its part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evolute.engine.config import EngineConfig, Resolved
from evolute.engine.execution.batch import Bytes, Float32, Int32, StepBatch
from evolute.models import (
    Decoder,
    Delta,
    LoraWeights,
    ModelConfig,
    ModelWeights,
    PackedLora,
    attend_one,
)
from evolute.models.decoder import Total
from evolute.models.packed_lora import unpack
from evolute.types import ConfigError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchExecutor:
    """An `Executor` on torch operations."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, settings: Resolved, rank: int = 0
    ) -> None:
        """Raises ConfigError when `rank` has no GPU and one is asked for."""
        self.decoder = Decoder(config)
        self.decoder.load(weights)
        self.decoder.requires_grad_(False)
        self._device = device_of(settings.config, rank)
        for parameter in self.decoder.parameters():
            parameter.data = parameter.data.to(PRECISIONS[settings.config.precision])
        self.decoder.to(self._device)
        self._page_size = settings.config.page_size
        shape = (settings.num_pages, self._page_size, config.num_kv_heads, config.head_width)
        dtype = getattr(torch, settings.config.kv_dtype)
        self._keys, self._values = (
            [torch.zeros(shape, dtype=dtype, device=self._device) for _ in self.decoder.layers]
            for _ in range(2)
        )
        self._adapters: dict[int, tuple[PackedLora, list[int] | None]] = {}
        self.page_bytes = settings.page_bytes

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Float32:
        logits: Float32 = self._logits(self._hidden(batch)).float().cpu().numpy()
        return logits

    def _hidden(self, batch: StepBatch, total: Total | None = None) -> Tensor:
        """Of the rows whose logits are wanted."""
        hidden: Tensor = self.decoder(
            self._index(batch.token_ids),
            self._index(batch.positions),
            _PagedAttention(self, batch),
            self._delta(_rows_of(batch, self._device)),
            total,
        )
        return hidden[self._index(batch.logit_rows)]

    def _logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.decoder.head_weight.T

    def _delta(self, rows: Mapping[int, Tensor]) -> Delta | None:
        return _BatchedDelta(self._weights_of, rows) if rows else None

    def _index(self, values: Int32) -> Tensor:
        return torch.from_numpy(values).long().to(self._device)

    def read_page(self, page: int, into: Bytes) -> None:
        rest = torch.from_numpy(into)
        for block in self._blocks([page]):
            size = len(block) * 4
            rest[:size].copy_(block.view(torch.uint8))
            rest = rest[size:]

    def write_page(self, page: int, data: Bytes) -> None:
        rest = torch.from_numpy(data)
        for block in self._blocks([page]):
            size = len(block) * 4
            block.view(torch.uint8).copy_(rest[:size])
            rest = rest[size:]

    def write_adapter(self, adapter: PackedLora, pages: Sequence[int]) -> None:
        self._write(torch.from_numpy(adapter.flat), pages)

    def set_adapter(
        self, index: int, adapter: PackedLora, pages: Sequence[int] | None = None
    ) -> None:
        self._adapters[index] = (adapter, None if pages is None else list(pages))

    def drop_adapter(self, index: int) -> None:
        self._adapters.pop(index, None)

    def set_weights(self, weights: ModelWeights) -> None:
        dense = {name: weights.dense(name) for name in weights}  # what can fail comes first
        self.decoder.load(ModelWeights(dense))

    def read_weight(self, name: str, count: int) -> Float32:
        values = dict(self.decoder.named_parameters())[name].detach()[:count]
        found: Float32 = values.float().cpu().numpy()
        return found

    def set_num_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Nothing that this executor needs can be lost."""

    def close(self) -> None:
        """There is nothing to end."""

    def _weights_of(self, index: int) -> LoraWeights:
        """What lies in the adapter's pages now."""
        adapter, pages = self._adapters[index]
        if pages is None:
            return adapter.unpack()
        flat = self._read(pages, len(adapter.flat))
        return unpack(adapter.config, adapter.parts, flat.cpu().numpy())

    def _write(self, rest: Tensor, pages: Sequence[int]) -> None:
        for block in self._blocks(pages):
            block[: len(rest)] = rest[: len(block)]
            rest = rest[len(block) :]

    def _read(self, pages: Sequence[int], count: int) -> Tensor:
        return torch.cat([*self._blocks(pages), torch.zeros(0, device=self._device)])[:count]

    def _blocks(self, pages: Sequence[int]) -> Iterator[Tensor]:
        """Floats of the pages: a page has, layer by layer, the keys' block and the values'."""
        for page in pages:
            for layer in zip(self._keys, self._values):
                for side in layer:
                    yield side[page].view(-1).view(torch.float32)


def device_of(config: EngineConfig, rank: int) -> torch.device:
    """Raises ConfigError when there are fewer GPUs than ranks."""
    if config.device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < config.tensor_parallel:
        raise ConfigError(
            f"engine.device is 'cuda' and engine.tensor_parallel {config.tensor_parallel}, but "
            f"torch finds {count} GPUs here and each rank needs one; lower tensor_parallel or set "
            "device = 'cpu'."
        )
    return torch.device("cuda", rank)


# -- internals ---------------------------------------------------------------


class _PagedAttention:
    """Writes keys and values to their pages, then attends one sequence at a time."""

    def __init__(self, executor: TorchExecutor, batch: StepBatch) -> None:
        self._executor, self._batch = executor, batch
        size, device = executor._page_size, executor._device
        owner = np.repeat(np.arange(len(batch.context_len)), np.diff(batch.row_start))
        pages = batch.page_table[owner, batch.positions // size]
        slots = pages.astype(np.int64) * size + batch.positions % size
        self._slots = torch.from_numpy(slots).to(device)
        self._tables = [
            torch.from_numpy(row[: -(-int(length) // size)].astype(np.int64)).to(device)
            for row, length in zip(batch.page_table, batch.context_len)
        ]
        self._window = executor.decoder.config.sliding_window

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._executor._keys[layer], self._executor._values[layer]
        keys.view(-1, *k.shape[1:])[self._slots] = k.to(keys.dtype)
        values.view(-1, *v.shape[1:])[self._slots] = v.to(values.dtype)
        out = torch.empty_like(q)
        for row, (table, length) in enumerate(zip(self._tables, self._batch.context_len)):
            start, end = self._batch.row_start[row : row + 2]
            seen = [x[table].flatten(0, 1)[:length].to(q.dtype) for x in (keys, values)]
            out[start:end] = attend_one(q[start:end], seen[0], seen[1], self._window)
        return out


class _BatchedDelta:
    """Several adapters in one batch: each on the rows of its sequences."""

    def __init__(
        self, weights_of: Callable[[int], LoraWeights], rows: Mapping[int, Tensor]
    ) -> None:
        self._rows = rows
        self._adapters = {index: weights_of(index) for index in rows}

    def __call__(self, layer: int, module: str, x: Tensor) -> Tensor | None:
        total: Tensor | None = None
        for index, rows in self._rows.items():
            part = self._adapters[index].delta(layer, module, x[rows])
            if part is not None:
                total = x.new_zeros(len(x), part.shape[1]) if total is None else total
                total[rows] = part
        return total


def _rows_of(batch: StepBatch, device: torch.device) -> dict[int, Tensor]:
    """Rows of the sequences of each adapter, by its index, in order."""
    owner = np.repeat(batch.adapter, np.diff(batch.row_start))
    return {
        int(index): torch.from_numpy(np.flatnonzero(owner == index)).to(device)
        for index in np.unique(owner)
        if index >= 0
    }
