"""Which steps are replayed as one CUDA graph? Those in which each sequence computes one token.

DecodeGraphs(run, record, ...)   .forward(batch, slots, max_rank) -> logits of the batch's rows
capture(run) -> replay           the CUDA graph of a function whose inputs stay where they are
padded_rows(count)               1, 2, 4, 8, then multiples of 8

A graph is made for a padded number of rows, a power of two of splits of the context, and the
highest rank of the adapters; the first step of a kind runs as it is and is then recorded. What a
graph reads lies at addresses that never change: inputs, weights, pages, adapters. Whoever moves
one of them calls `clear`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from evolute.engine.execution.batch import Int32, StepBatch
from evolute.engine.execution.step_inputs import Shape, StepInputs, pad_decodes
from evolute.kernels.triton.attention import SPLIT

logger = logging.getLogger(__name__)
MAX_GRAPHS = 128  # the one that was used longest ago makes room
Key: TypeAlias = tuple[int, int, int]
Run: TypeAlias = Callable[[StepInputs], Tensor]
Record: TypeAlias = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class _Recorded:
    inputs: StepInputs
    replay: Callable[[], Tensor]


class DecodeGraphs:
    """Recorded steps. `page` is one that no sequence owns; `max_pages` those of the longest."""

    def __init__(
        self,
        run: Run,
        record: Record,
        *,
        device: torch.device,
        page_size: int,
        max_pages: int,
        spare: int,
    ) -> None:
        self.recorded = self.replayed = 0  # steps since the start
        self._run, self._record, self._device = run, record, device
        self._page_size, self._max_pages, self._spare = page_size, max_pages, spare
        self._steps: OrderedDict[Key, _Recorded] = OrderedDict()
        self._is_broken = False

    def takes(self, batch: StepBatch) -> bool:
        return not self._is_broken and len(batch.token_ids) == len(batch.context_len)

    def forward(self, batch: StepBatch, slots: Int32, max_rank: int) -> Tensor:
        """Logits [R, V] of `batch.logit_rows`, good until the next step."""
        rows, pages = padded_rows(len(batch.token_ids)), self._padded_pages(batch)
        key = (rows, pages, max_rank if (slots >= 0).any() else 0)
        padded = pad_decodes(batch, rows, pages, self._spare)
        adapters = pad_slots(slots, rows)
        step = self._steps.get(key)
        inputs = step.inputs if step else StepInputs(Shape.of(padded), self._device)
        inputs.fill(padded, adapters, pages * self._page_size)
        if step is None:
            logits = self._first(key, inputs)
        else:
            self._steps.move_to_end(key)
            self.replayed += 1
            logits = step.replay()
        if len(batch.logit_rows) == len(batch.token_ids):
            return logits[: len(batch.token_ids)]
        return logits[torch.from_numpy(batch.logit_rows).to(self._device)]

    def clear(self) -> None:
        self._steps.clear()

    # -- internals -----------------------------------------------------------

    def _first(self, key: Key, inputs: StepInputs) -> Tensor:
        """Compute as it is, which also compiles what is new, then record for the next one."""
        logits = self._run(inputs)
        try:
            replay = self._record(lambda: self._run(inputs))
        except RuntimeError:  # of CUDA: memory, or something that no graph can hold
            logger.exception("CUDA graphs are switched off: steps of %d rows do not fit", key[0])
            self._is_broken = True
            self.clear()
            return logits
        self.recorded += 1
        while len(self._steps) >= MAX_GRAPHS:
            self._steps.popitem(last=False)
        self._steps[key] = _Recorded(inputs, replay)
        return logits

    def _padded_pages(self, batch: StepBatch) -> int:
        """Columns of the page table: whole splits, a power of two of them."""
        context = int(batch.context_len.max())
        splits = 1 << (-(-context // SPLIT) - 1).bit_length()
        pages = min(-(-splits * SPLIT // self._page_size), self._max_pages)
        return max(pages, -(-context // self._page_size))


def padded_rows(count: int) -> int:
    """The least number of rows, at least `count`, for which steps are recorded."""
    if count <= 8:
        return 1 << (count - 1).bit_length()
    return -(-count // 8) * 8


def pad_slots(slots: Int32, rows: int) -> Int32:
    """Padded rows have no adapter."""
    padded: Int32 = np.full(rows, -1, np.int32)
    padded[: len(slots)] = slots
    return padded


def capture() -> Record:
    """Records CUDA graphs, which share their scratch memory as one runs after the other."""
    pool: Any = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = run()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay

    return record
