"""Where pages of the second tier lie, and how they are copied there and back.

    DiskSlots(executor, num_slots, directory, queue_mb)    a file, checksums
    HostSlots(executor, num_slots)                         host memory, pinned where a GPU is

Both are a `SlotStore`. For the disk a page is copied to a buffer and written by a thread; without
a queue it is written within the step. A page that is still in its buffer is read from there.
Checksums are of a page's bytes and of its name, and are kept in memory: a slot that was torn, cut
off, changed by somebody, or that still holds another page is found when it is read. An error of
the system breaks the store, and nothing else.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from evolute.engine.execution.batch import Bytes, PageMemory
from evolute.engine.execution.tier_directory import TierDirectory

logger = logging.getLogger(__name__)
MB = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    """A page on its way to its slot. `done` gives its checksum."""

    slot: int
    name: bytes
    buffer: Bytes
    done: Future[int]


class DiskSlots:
    """Slots in one file; owned by the engine's thread. Buffers take at most `queue_mb`; 0: there
    is no thread."""

    def __init__(
        self,
        executor: PageMemory,
        num_slots: int,
        directory: TierDirectory,
        queue_mb: int,
    ) -> None:
        self.num_slots, self.why_broken = num_slots, ""
        self._executor, self._directory = executor, directory
        self._size = executor.page_bytes
        self._file = directory.file
        self._sums: dict[int, int] = {}
        self._writes: dict[int, _Write] = {}  # the newest of each slot
        self._flying: list[_Write] = []  # oldest first
        self._num_buffers = max(queue_mb * MB // self._size, 1)
        self._buffers: list[Bytes] = []  # made when they are needed
        self._page = np.empty(self._size, np.uint8)
        self._thread = ThreadPoolExecutor(1, "evolute-tier") if queue_mb else None

    def can_write(self) -> bool:
        self._settle()
        return not self.why_broken and len(self._flying) < self._num_buffers

    def write(self, page: int, slot: int, name: bytes) -> None:
        buffer = self._buffers.pop() if self._buffers else np.empty(self._size, np.uint8)
        self._executor.read_page(page, buffer)
        if self._thread is not None:
            done = self._thread.submit(self._store, buffer, slot, name)
        else:
            done = Future()
            try:
                done.set_result(self._store(buffer, slot, name))
            except OSError as error:
                done.set_exception(error)
        write = _Write(slot, name, buffer, done)
        self._writes[slot] = write
        self._flying.append(write)
        self._settle()

    def read(
        self, slots: Sequence[int], pages: Sequence[int], names: Sequence[bytes]
    ) -> tuple[int, float]:
        started = time.perf_counter()
        self._settle()
        done = 0
        for slot, page, name in zip(slots, pages, names):
            data = self._load(slot, name)
            if data is None:
                break
            self._executor.write_page(page, data)
            done += 1
        return done, time.perf_counter() - started

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._directory.close()

    # -- internals -----------------------------------------------------------

    def _store(self, buffer: Bytes, slot: int, name: bytes) -> int:
        """On the writer's thread. Returns the checksum."""
        _write_all(self._file, buffer, slot * self._size)
        return _checksum(buffer, name)

    def _settle(self) -> None:
        """Take note of writes that have ended; they end in the order in which they began."""
        while self._flying and self._flying[0].done.done():
            write = self._flying.pop(0)
            error = write.done.exception()
            if self._writes.get(write.slot) is write:  # else a newer page is on its way there
                del self._writes[write.slot]
                self._sums.pop(write.slot, None)
                if error is None:
                    self._sums[write.slot] = write.done.result()
            self._buffers.append(write.buffer)
            if error is not None:
                self._break(f"a page could not be written: {error}")

    def _load(self, slot: int, name: bytes) -> Bytes | None:
        """What was written to the slot, or None if that is not the page of this name."""
        write = self._writes.get(slot)
        if write is not None:
            return write.buffer if write.name == name else None
        if self.why_broken or slot not in self._sums:
            return None
        try:
            count = os.preadv(self._file, [self._page.data], slot * self._size)
        except OSError as error:
            self._break(f"a page could not be read: {error}")
            return None
        is_whole = count == self._size and _checksum(self._page, name) == self._sums[slot]
        return self._page if is_whole else None

    def _break(self, why: str) -> None:
        self.why_broken = self.why_broken or why


class HostSlots:
    """Slots in host memory. Where a CUDA device is, it is pinned, so that copies run at the
    link's speed; copies are made within the step."""

    def __init__(self, executor: PageMemory, num_slots: int) -> None:
        import torch  # no part of a start without this tier

        self.num_slots, self.why_broken = num_slots, ""
        self._executor = executor
        self.is_pinned = torch.cuda.is_available()
        shape = (num_slots, executor.page_bytes)
        self.memory = torch.empty(shape, dtype=torch.uint8, pin_memory=self.is_pinned)
        self._slots: Bytes = self.memory.numpy()
        self._names: dict[int, bytes] = {}

    def can_write(self) -> bool:
        return True

    def write(self, page: int, slot: int, name: bytes) -> None:
        self._executor.read_page(page, self._slots[slot])
        self._names[slot] = name

    def read(
        self, slots: Sequence[int], pages: Sequence[int], names: Sequence[bytes]
    ) -> tuple[int, float]:
        started, done = time.perf_counter(), 0
        for slot, page, name in zip(slots, pages, names):
            if self._names.get(slot) != name:
                break
            self._executor.write_page(page, self._slots[slot])
            done += 1
        return done, time.perf_counter() - started

    def close(self) -> None:
        pass


# -- internals ---------------------------------------------------------------


def _checksum(data: Bytes, name: bytes) -> int:
    """Of the bytes and of whose they are."""
    return zlib.crc32(data.data, zlib.crc32(name))


def _write_all(file: int, data: Bytes, at: int) -> None:
    rest = memoryview(data.data)
    while rest:
        count = os.pwrite(file, rest, at)
        if not count:
            raise OSError("nothing was written")
        rest, at = rest[count:], at + count
