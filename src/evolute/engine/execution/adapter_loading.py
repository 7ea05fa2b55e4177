"""Copies adapters from host memory to the pages of an executor, now or beside a step.

    loader.store[index] = packed       host memory: every adapter, resident or not
    load(index, pages)                 copy now
    start(index, pages)                copy on a thread of its own, while a step computes
    finish(index) / drop(index)        wait for that copy and use it / and forget it
    counts                             how many, how much, how long; what of it was hidden

One thread: a copy is bound by memory, two at a time would share its speed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from evolute.engine.execution.batch import Executor
from evolute.models import PackedLora

logger = logging.getLogger(__name__)
COPY_TIMEOUT_S = 60.0


@dataclass(slots=True)
class LoadCounts:
    """Since the start. Seconds a copy took that no step waited for are hidden."""

    loads: int = 0  # of them:
    prefetches: int = 0  # copied beside a step
    unused_prefetches: int = 0  # and dropped before anybody used them
    bytes: int = 0
    copy_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Copy:
    """One that was begun. `done` gives the seconds it took."""

    packed: PackedLora
    pages: list[int]
    done: Future[float]


class AdapterLoader:
    """A `Loader` for one executor; owned by the engine's thread."""

    def __init__(self, executor: Executor) -> None:
        self.store: dict[int, PackedLora] = {}
        self.counts = LoadCounts()
        self._executor = executor
        self._copies: dict[int, Copy] = {}
        self._thread: ThreadPoolExecutor | None = None  # made when something is prefetched

    @property
    def num_bytes(self) -> int:
        """Host memory of all adapters."""
        return sum(packed.num_bytes for packed in self.store.values())

    def load(self, adapter: int, pages: list[int]) -> None:
        packed = self.store[adapter]
        seconds = self._write(packed, pages)
        self._count(packed, seconds, waited_s=seconds)
        self._executor.set_adapter(adapter, packed, pages)

    def start(self, adapter: int, pages: list[int]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "evolute-adapters")
        packed = self.store[adapter]
        future = self._thread.submit(self._write, packed, pages)
        self._copies[adapter] = Copy(packed, pages, future)

    def finish(self, adapter: int) -> None:
        """A copy that failed is made again here, so that its error meets who needs it."""
        copy = self._copies.pop(adapter)
        started = time.perf_counter()
        try:
            seconds = copy.done.result(COPY_TIMEOUT_S)
        except Exception:
            logger.exception("adapter %d could not be copied beside a step", adapter)
            self.load(adapter, copy.pages)
            return
        self._count(copy.packed, seconds, time.perf_counter() - started)
        self.counts.prefetches += 1
        self._executor.set_adapter(adapter, copy.packed, copy.pages)

    def drop(self, adapter: int) -> None:
        """Its pages are somebody else's when this returns."""
        copy = self._copies.pop(adapter, None)
        if copy is not None and not copy.done.cancel():
            error = copy.done.exception(COPY_TIMEOUT_S)
            if error is None:
                self._count(copy.packed, copy.done.result(), 0.0)
                self.counts.prefetches += 1
        self.counts.unused_prefetches += copy is not None
        self._executor.drop_adapter(adapter)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    # -- internals -----------------------------------------------------------

    def _write(self, packed: PackedLora, pages: Sequence[int]) -> float:
        started = time.perf_counter()
        self._executor.write_adapter(packed, pages)
        return time.perf_counter() - started

    def _count(self, packed: PackedLora, copy_s: float, waited_s: float) -> None:
        self.counts.loads += 1
        self.counts.bytes += packed.num_bytes
        self.counts.copy_s += copy_s
        self.counts.waited_s += waited_s
