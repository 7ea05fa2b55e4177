"""Append-only JSON lines: metrics.jsonl, samples.jsonl, ledger.jsonl.

    with RecordWriter(path) as writer: writer.write({...})
    read_records(path) -> list      a torn last line, left by a kill, is ignored
    repair(path)                    cuts a torn last line off; opening a writer does it

A record is one line of plain ASCII JSON, so that a newline ends a record and nothing else does.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

BLOCK_BYTES = 1 << 16


class RecordWriter:
    """Appends records. After every `flush_every` of them, and at the end, they are with the
    operating system: a killed process loses fewer than `flush_every`, a power cut may lose more.
    """

    def __init__(self, path: Path, *, flush_every: int = 1) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        repair(path)
        self._file = path.open("a", encoding="ascii", newline="\n")
        self._flush_every, self._waiting = flush_every, 0

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; values JSON does not know are written as their text."""
        self._file.write(json.dumps(record, default=str) + "\n")
        self._waiting += 1
        if self._waiting >= self._flush_every:
            self.flush()

    def flush(self) -> None:
        self._file.flush()
        self._waiting = 0

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records before the first damaged line; [] when there is no file."""
    if not path.exists():
        return []
    records = []
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict):
                break
            records.append(record)
    return records


def repair(path: Path) -> None:
    """Cut a torn last line off, so that the next record starts on a line of its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, 2)
        if file.read(1) == b"\n":
            return
        end = file.tell()
        while end > 0:
            start = max(end - BLOCK_BYTES, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
