"""Weights through memory that two processes map: one copy in, none in between.

    writer = SharedMemorySender(path); writer.send(packed)
    reader = SharedMemoryReceiver(path); packed = reader.receive(version, timeout_s)

`path` is a file in a file system of memory (/dev/shm); any file works. It begins with two marks: a
writer sets the first to the version before it writes and the second when all is written. A reader
that sees two different marks has met a write that was torn; the digest finds everything else.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

from evolute.train.sync.wire import Manifest, Packed
from evolute.types import TrainingError, WireError

HEADER = struct.Struct("<8sqqqq")  # magic, begun, ended, bytes of the manifest, bytes of the data
MAGIC = b"evolutew"
NONE = -1
POLL_S = 0.002


class SharedMemorySender:
    """The only writer of `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def send(self, packed: Packed) -> None:
        """Replace what is there. A reader sees the old weights, a torn write, or the new ones."""
        manifest = packed.manifest.to_json().encode()
        size = HEADER.size + len(manifest) + len(packed.data)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(handle).st_size < size:
                os.ftruncate(handle, size)
            with mmap.mmap(handle, 0) as memory:
                version, ends = packed.manifest.version, HEADER.size + len(manifest)
                sizes = (len(manifest), len(packed.data))
                HEADER.pack_into(memory, 0, MAGIC, version, NONE, *sizes)
                memory[HEADER.size : ends] = manifest
                memory[ends : ends + len(packed.data)] = packed.data
                HEADER.pack_into(memory, 0, MAGIC, version, version, *sizes)
        finally:
            os.close(handle)


class SharedMemoryReceiver:
    """A reader of `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def receive(self, version: int, timeout_s: float) -> Packed:
        """Wait for that version. Raises TrainingError when it does not come in time, WireError when
        it is torn."""
        until_s = time.monotonic() + timeout_s
        while True:
            begun, ended = self._marks()
            if begun == ended == version:
                packed = self._read()
                packed.check()
                if packed.manifest.version != version or self._marks() != (version, version):
                    raise WireError(f"version {version} was overwritten while it was read.")
                return packed
            if time.monotonic() >= until_s:
                break
            time.sleep(POLL_S)
        if begun == version:
            raise WireError(f"version {version} in {self.path} is torn: its writer did not end.")
        raise TrainingError(
            f"weights {version} did not come through {self.path} within {timeout_s:g} s; there is "
            f"{f'version {begun}' if begun != NONE else 'nothing'}."
        )

    # -- internals ---------------------------------------------------------------

    def _marks(self) -> tuple[int, int]:
        try:
            with self.path.open("rb") as file:
                head = file.read(HEADER.size)
        except FileNotFoundError:
            return NONE, NONE
        if len(head) < HEADER.size:
            return NONE, NONE
        magic, begun, ended, _, _ = HEADER.unpack(head)
        if magic != MAGIC:
            raise WireError(f"{self.path} does not hold weights.")
        return begun, ended

    def _read(self) -> Packed:
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory,
        ):
            _, _, _, text, data = HEADER.unpack_from(memory, 0)
            ends = HEADER.size + text
            if ends + data > len(memory):
                raise WireError(f"{self.path} is shorter than it says: a torn write.")
            manifest = Manifest.from_json(memory[HEADER.size : ends])
            return Packed(manifest, memoryview(memory[ends : ends + data]))
