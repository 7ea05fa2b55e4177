"""Which rollouts does a run's journal hold, and where? Read as it grows, a line once.

    journal = Rollouts(run_dir / "rollouts.jsonl")
    journal.steps() -> [step]            journal.of_step(step) -> [Entry]
    journal.read(entry) -> Rollout       from its place in the file

A run that goes on after a kill cuts its journal and writes the lines anew; then all is read again.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.train.rollouts.journal import from_record
from evolute.types import Rollout

KEPT = 64  # last bytes of what was read, which a cut journal no longer has


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: enough for a row of a table."""

    step: int
    group: int
    index: int
    problem_id: str
    reward: float
    outcome: str
    failure: str | None
    num_samples: int
    num_tokens: int  # that are trained on
    versions: tuple[int, ...]
    offset: int
    size: int


class Rollouts:
    """Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._by_step: dict[int, list[Entry]] = {}
        self._end, self._tail = 0, b""

    def steps(self) -> list[int]:
        """That have rollouts, in order."""
        with self._lock:
            self._read_on()
            return sorted(self._by_step)

    def of_step(self, step: int) -> list[Entry]:
        """In the order of their groups; empty for a step that has none."""
        with self._lock:
            self._read_on()
            return sorted(self._by_step.get(step, ()), key=lambda e: (e.group, e.index))

    def read(self, entry: Entry) -> Rollout:
        """Raises LookupError when the journal was cut since, so that another line is there."""
        with self._path.open("rb") as file:
            file.seek(entry.offset)
            line = file.read(entry.size)
        try:
            record = json.loads(line)
            is_it = (record.pop("step"), record["group"], record["index"]) == (
                *(entry.step, entry.group, entry.index),
            )
        except (ValueError, KeyError, TypeError):
            is_it = False
        if not is_it:
            raise LookupError(f"step {entry.step} was begun again; load its list anew.")
        return from_record(record)

    # -- internals ---------------------------------------------------------------

    def _read_on(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if not self._continues(file):
                self._by_step, self._end, self._tail = {}, 0, b""
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                self._add(line)

    def _continues(self, file: Any) -> bool:
        start = max(self._end - len(self._tail), 0)
        file.seek(start)
        return bool(file.read(len(self._tail)) == self._tail)

    def _add(self, line: bytes) -> None:
        try:
            entry = _entry(json.loads(line), self._end, len(line))
        except (ValueError, KeyError, TypeError):
            entry = None  # not of ours, or damaged: passed over
        if entry:
            self._by_step.setdefault(entry.step, []).append(entry)
        self._end += len(line)
        self._tail = line[-KEPT:]


def _entry(record: dict[str, Any], offset: int, size: int) -> Entry:
    samples = record["samples"]
    versions = [v["version"] for s in samples for v in s["weight_versions"]]
    return Entry(
        step=int(record["step"]),
        group=int(record["group"]),
        index=int(record["index"]),
        problem_id=str(record["problem_id"]),
        reward=float(record["reward"]),
        outcome=str(record["outcome"]),
        failure=record["failure"],
        num_samples=len(samples),
        num_tokens=sum(sum(s["loss_mask"]) for s in samples),
        versions=tuple(dict.fromkeys(versions)),
        offset=offset,
        size=size,
    )
