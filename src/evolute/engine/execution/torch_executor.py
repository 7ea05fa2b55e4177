"""The plain way to compute a step: the torch decoder with keys and values gathered by page.

The oracle for the native executor, and what runs where no kernels were built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import Bytes, Float32, StepBatch
from evolute.models import (
    Decoder,
    LoadedModel,
    LoraWeights,
    ModelWeights,
    PackedLora,
    attend_one,
)
from evolute.models.packed_lora import unpack


class TorchExecutor:
    """An `Executor` on torch operations, float32."""

    def __init__(self, model: LoadedModel, settings: Resolved) -> None:
        config = model.config
        self.decoder = Decoder(config)
        self.decoder.load(model.weights)
        self.decoder.requires_grad_(False)
        self._page_size = settings.config.page_size
        shape = (settings.num_pages, self._page_size, config.num_kv_heads, config.head_width)
        dtype = getattr(torch, settings.config.kv_dtype)
        self._keys = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_layers)]
        self._values = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_layers)]
        self._adapters: dict[int, tuple[PackedLora, list[int] | None]] = {}
        self.page_bytes = settings.page_bytes

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Float32:
        hidden = self.decoder(
            torch.from_numpy(batch.token_ids).long(),
            torch.from_numpy(batch.positions).long(),
            _PagedAttention(self, batch),
            _BatchedDelta(self._weights_of, batch) if (batch.adapter >= 0).any() else None,
        )
        rows = hidden[torch.from_numpy(batch.logit_rows).long()]
        logits: Float32 = (rows @ self.decoder.head_weight.T).numpy()
        return logits

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
        rest = torch.from_numpy(adapter.flat)
        for block in self._blocks(pages):
            block[: len(rest)] = rest[: len(block)]
            rest = rest[len(block) :]

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
        values: Float32 = dict(self.decoder.named_parameters())[name].detach()[:count].numpy()
        return values

    def set_num_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def _weights_of(self, index: int) -> LoraWeights:
        """What lies in the adapter's pages now."""
        adapter, pages = self._adapters[index]
        if pages is None:
            return adapter.unpack()
        flat = torch.cat(list(self._blocks(pages)))[: len(adapter.flat)]
        return unpack(adapter.config, adapter.parts, flat.numpy())

    def _blocks(self, pages: Sequence[int]) -> Iterator[Tensor]:
        """Floats of the pages: a page has, layer by layer, the keys' block and the values'."""
        for page in pages:
            for layer in zip(self._keys, self._values):
                for side in layer:
                    yield side[page].view(-1).view(torch.float32)


class _PagedAttention:
    """Writes keys and values to their pages, then attends one sequence at a time."""

    def __init__(self, executor: TorchExecutor, batch: StepBatch) -> None:
        self._executor, self._batch = executor, batch
        owner = np.repeat(np.arange(len(batch.context_len)), np.diff(batch.row_start))
        size = executor._page_size
        pages = batch.page_table[owner, batch.positions // size]
        self._slots = torch.from_numpy(pages.astype(np.int64) * size + batch.positions % size)
        self._window = executor.decoder.config.sliding_window

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._executor._keys[layer], self._executor._values[layer]
        keys.view(-1, *k.shape[1:])[self._slots] = k.to(keys.dtype)
        values.view(-1, *v.shape[1:])[self._slots] = v.to(values.dtype)
        out = torch.empty_like(q)
        for row, length in enumerate(self._batch.context_len):
            start, end = self._batch.row_start[row : row + 2]
            table = torch.from_numpy(self._batch.page_table[row].astype(np.int64))
            table = table[: -(-int(length) // self._executor._page_size)]
            seen = [x[table].flatten(0, 1)[:length].to(q.dtype) for x in (keys, values)]
            out[start:end] = attend_one(q[start:end], seen[0], seen[1], self._window)
        return out


class _BatchedDelta:
    """Several adapters in one batch: each on the rows of its sequences."""

    def __init__(self, weights_of: Callable[[int], LoraWeights], batch: StepBatch) -> None:
        owner = np.repeat(batch.adapter, np.diff(batch.row_start))
        self._rows = {
            index: torch.from_numpy(np.flatnonzero(owner == index))
            for index in np.unique(owner)
            if index >= 0
        }
        self._adapters = {int(index): weights_of(int(index)) for index in self._rows}

    def __call__(self, layer: int, module: str, x: Tensor) -> Tensor | None:
        total: Tensor | None = None
        for index, rows in self._rows.items():
            part = self._adapters[int(index)].delta(layer, module, x[rows])
            if part is not None:
                total = x.new_zeros(len(x), part.shape[1]) if total is None else total
                total[rows] = part
        return total
