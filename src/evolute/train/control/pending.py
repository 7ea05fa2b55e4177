"""Which finished rollouts were not trained on yet? They survive a crash, one by one.

    pending = Pending(path)               path = None: kept nowhere
    await pending.add(entry)              returns once it is on disk; many share one sync
    pending.read() -> list[Entry]         in the order in which they were finished
    pending.forget(keys)                  those rows are trained: the file is written anew when it
                                          holds more of them than others

One JSON line a rollout. A torn line, and what stands after it, was never told to anybody and does
not count; the next writer cuts it off.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.telemetry import read_records, repair
from evolute.train.control.groups import Key
from evolute.train.rollouts.journal import from_record, to_record
from evolute.types import Rollout, TrainingError


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished rollout of a row's attempt. `tag`: the weights' version when its group began."""

    row: int
    attempt: int
    tag: int
    rollout: Rollout

    @property
    def key(self) -> Key:
        return self.row, self.attempt


class Pending:
    """The rollouts of a run that wait for the trainer."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lines: list[bytes] = []  # not on disk yet
        self._lock = asyncio.Lock()  # one sync at a time
        self._file = threading.Lock()  # writers on threads, and who writes the file anew
        if path is not None and path.exists():
            self._cut()

    async def add(self, entry: Entry) -> None:
        """Returns when the entry is on disk. Raises TrainingError when it cannot be written."""
        if self.path is None:
            return
        record: dict[str, Any] = {"row": entry.row, "attempt": entry.attempt, "tag": entry.tag}
        record["rollout"] = to_record(entry.rollout)
        self._lines.append(json.dumps(record, default=str).encode() + b"\n")
        async with self._lock:
            lines, self._lines = self._lines, []
            if lines:  # else another took it along
                await asyncio.shield(asyncio.to_thread(self._append, b"".join(lines)))

    def read(self) -> list[Entry]:
        """Every entry in the order in which they were added; one that came twice counts once."""
        if self.path is None:
            return []
        found: dict[tuple[int, int, int], Entry] = {}
        for record in read_records(self.path):
            rollout = from_record(record["rollout"])
            entry = Entry(record["row"], record["attempt"], record["tag"], rollout)
            found.setdefault((*entry.key, rollout.index), entry)
        return list(found.values())

    def forget(self, keys: Collection[Key]) -> bool:
        """Leave the rollouts of these rows out of the file, if that makes it much smaller; false
        when it stays as it is."""
        if self.path is None or not self.path.exists():
            return False
        with self._file:
            records = read_records(self.path)
            kept = [r for r in records if (r["row"], r["attempt"]) not in keys]
            if len(records) <= 2 * len(kept):
                return False
            temporary = self.path.with_suffix(".tmp")
            temporary.unlink(missing_ok=True)
            lines = (json.dumps(record).encode() + b"\n" for record in kept)
            _append(temporary, b"".join(lines))
            os.replace(temporary, self.path)
            return True

    def _append(self, data: bytes) -> None:
        assert self.path is not None
        with self._file:
            _append(self.path, data)

    def _cut(self) -> None:
        """Cut what a kill has torn: a half line at the end, or damage with all that follows it."""
        assert self.path is not None
        repair(self.path)
        size = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    json.loads(line)
                except ValueError:
                    break
                size += len(line)
        os.truncate(self.path, size)


# -- internals ---------------------------------------------------------------


def _append(path: Path, data: bytes) -> None:
    """In one write, so that writers of one process never mix within a line."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise TrainingError(
            f"a finished rollout could not be written to {path} ({error}). Free some space and "
            "resume; what was written before is whole."
        ) from error
