"""Append-only JSON lines: metrics.jsonl, samples.jsonl, ledger.jsonl.

with RecordWriter(path) as writer: writer.write({...})
read_records(path) -> list; a torn last line, left by a kill, is ignored
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any


class RecordWriter:
    """Appends records; each is whole on disk when `write` returns, but for a power cut."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        repair(path)
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, default=str) + "\n")
        self._file.flush()

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
    """All whole records; [] when there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def repair(path: Path) -> None:
    """Cut a torn last line off, so that the next record starts on a line of its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, 2)
        if file.read(1) == b"\n":
            return
        content = path.read_bytes()
        file.truncate(content.rfind(b"\n") + 1)
