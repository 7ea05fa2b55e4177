"""How does a step reach the GPU? As one run of int32, in one copy, at the same address each time.

pad_decodes(batch, rows, pages, spare) -> StepBatch   more rows, which change no answer
StepInputs(batch shape, device).fill(batch)           views of the arrays on the device

A padded row is a sequence of one token whose only page is one that nobody owns; it asks for
logits that nobody reads, has no adapter, and writes what all padded rows write there.
"""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evolute.engine.execution.batch import Int32, StepBatch
from evolute.kernels.reference import PagedRows

ALIGN = 16  # int32: compiled kernels rely on addresses that are multiples of 16 bytes


class Shape(NamedTuple):
    """Of a step's arrays."""

    tokens: int
    sequences: int
    logits: int
    pages: int  # columns of the page table

    @classmethod
    def of(cls, batch: StepBatch) -> Shape:
        sequences, pages = batch.page_table.shape
        return cls(len(batch.token_ids), sequences, len(batch.logit_rows), pages)


class StepInputs:
    """One step's arrays on the device. `fill` may be called again for a step of the same shape."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        tokens, sequences, logits, pages = shape
        sizes = {
            "token_ids": tokens,
            "positions": tokens,
            "owner": tokens,
            "row_start": sequences + 1,
            "adapter": sequences,
            "logit_rows": logits,
            "page_table": sequences * pages,
        }
        self.shape = shape
        starts = np.cumsum([0, *(-(-size // ALIGN) * ALIGN for size in sizes.values())]).tolist()
        is_cuda = device.type == "cuda"
        self._host = torch.zeros(starts[-1], dtype=torch.int32, pin_memory=is_cuda)
        self._device = self._host.to(device) if is_cuda else self._host
        cuts = {name: slice(at, at + sizes[name]) for name, at in zip(sizes, starts)}
        self._write = {name: self._host.numpy()[cut] for name, cut in cuts.items()}
        self._read = {name: self._device[cut] for name, cut in cuts.items()}
        self.singles = self.max_rows = self.max_context = 0
        self.has_adapters = False

    def fill(self, batch: StepBatch, adapter: Int32, max_context: int = 0) -> None:
        """`adapter` are slots of the device's table. A larger `max_context` is kept for all."""
        counts = np.diff(batch.row_start)
        arrays = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name in self._write}
        arrays["owner"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        arrays["adapter"] = adapter
        for name, to in self._write.items():
            to[:] = arrays[name].reshape(-1)
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)
        longer = np.flatnonzero(counts != 1)
        self.singles = int(longer[0]) if len(longer) else len(counts)
        self.max_rows = int(counts.max())
        self.max_context = max(int(batch.context_len.max()), max_context)
        self.has_adapters = bool((adapter >= 0).any())

    def __getitem__(self, name: str) -> Tensor:
        return self._read[name]

    @property
    def rows(self) -> PagedRows:
        table = self._read["page_table"].view(self.shape.sequences, self.shape.pages)
        start, owner, positions = (self._read[n] for n in ("row_start", "owner", "positions"))
        return PagedRows(start, owner, positions, table, self.max_rows, self.max_context)


def pad_decodes(batch: StepBatch, rows: int, pages: int, spare: int) -> StepBatch:
    """`batch`, whose sequences have one row each, with `rows` sequences and tables of `pages`
    columns. Logits are asked of every row. `spare` is a page that belongs to nobody."""
    count = len(batch.token_ids)
    table = np.zeros((rows, pages), np.int32)
    width = min(pages, batch.page_table.shape[1])
    table[:count, :width] = batch.page_table[:, :width]
    table[count:, 0] = spare
    return StepBatch(
        token_ids=_longer(batch.token_ids, rows, 0),
        positions=_longer(batch.positions, rows, 0),
        row_start=np.arange(rows + 1, dtype=np.int32),
        context_len=_longer(batch.context_len, rows, 1),
        page_table=table,
        adapter=_longer(batch.adapter, rows, -1),
        logit_rows=np.arange(rows, dtype=np.int32),
    )


# -- internals ---------------------------------------------------------------


def _longer(values: Int32, size: int, fill: int) -> Int32:
    out = np.full(size, fill, np.int32)
    out[: len(values)] = values
    return out
