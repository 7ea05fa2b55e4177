"""One forward pass as plain arrays: which tokens, where their keys and values go.

Row letters: T tokens in the step, B sequences, W pages in the widest page table, R rows whose
logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evolute.models import ModelWeights, PackedLora
from evolute.types import BackendError

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class ExecutorLost(BackendError):
    """No step can be computed any more, whatever is asked."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of one sequence that a step computes."""

    token_ids: Sequence[int]
    start: int  # position of the first of them
    pages: Sequence[int]  # page table from position 0; covers start + len(token_ids)
    adapter: int = -1  # index of the adapter, -1 for none
    logits_from: int | None = None  # first position whose logits are wanted; None: none


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Invariant: sequence b owns tokens row_start[b] : row_start[b + 1]."""

    token_ids: Int32  # [T]
    positions: Int32  # [T]
    row_start: Int32  # [B + 1]
    context_len: Int32  # [B] tokens in memory after the step
    page_table: Int32  # [B, W]
    adapter: Int32  # [B]
    logit_rows: Int32  # [R] indices into T

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class Executor(Protocol):
    """Computes steps: weights, keys and values, and adapters live here."""

    def forward(self, batch: StepBatch) -> Float32:
        """Logits [R, V] of `batch.logit_rows`, good until the next call; writes keys and values of
        all T tokens."""
        ...

    def write_adapter(self, adapter: PackedLora, pages: Sequence[int]) -> None:
        """Copy an adapter to pages that no step reads or writes. From any thread."""
        ...

    def set_adapter(
        self, index: int, adapter: PackedLora, pages: Sequence[int] | None = None
    ) -> None:
        """Compute with what `write_adapter` put in `pages`; None: with `adapter` where it is."""
        ...

    def drop_adapter(self, index: int) -> None:
        """Read it no more. Unknown ones are ignored."""
        ...

    def set_weights(self, weights: ModelWeights) -> None:
        """All or nothing: a failure leaves the weights as they were."""
        ...

    def read_weight(self, name: str, count: int) -> Float32:
        """The first `count` rows of a weight, as this executor computes with them."""
        ...

    def set_num_threads(self, num_threads: int) -> None: ...

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Call `on_lost`, from any thread, when no step can be computed any more."""
        ...

    def close(self) -> None:
        """End what it started. Idempotent."""
        ...


@runtime_checkable
class PageMemory(Protocol):
    """An executor whose pages can be copied out and back."""

    page_bytes: int  # of the keys and values of one page, all layers

    def read_page(self, page: int, into: Bytes) -> None:
        """Copy a page's keys and values out, [page_bytes]."""
        ...

    def write_page(self, page: int, data: Bytes) -> None:
        """Make a page what `read_page` gave, to the bit."""
        ...


def build_batch(segments: Sequence[Segment]) -> StepBatch:
    """Lay the segments out one after the other."""
    lengths = [len(segment.token_ids) for segment in segments]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    width = max(len(segment.pages) for segment in segments)
    page_table = np.zeros((len(segments), width), np.int32)
    logit_rows: list[int] = []
    for row, segment in enumerate(segments):
        page_table[row, : len(segment.pages)] = segment.pages
        if segment.logits_from is not None:
            first = int(starts[row]) + max(segment.logits_from - segment.start, 0)
            logit_rows += range(first, int(starts[row + 1]))
    return StepBatch(
        token_ids=np.concatenate([np.asarray(s.token_ids, np.int32) for s in segments]),
        positions=np.concatenate(
            [np.arange(s.start, s.start + n, dtype=np.int32) for s, n in zip(segments, lengths)]
        ),
        row_start=starts,
        context_len=np.array([s.start + n for s, n in zip(segments, lengths)], np.int32),
        page_table=page_table,
        adapter=np.array([s.adapter for s in segments], np.int32),
        logit_rows=np.array(logit_rows, np.int32),
    )
