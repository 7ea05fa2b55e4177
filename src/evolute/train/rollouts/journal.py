"""Append-only journal of rollouts: what was sampled survives whatever happens next.

One JSON line a rollout with its step, in the order of the steps. A step's lines count only when
the checkpoint pointer has passed that step; on resume the file is cut at the first line of a later
step, or at a torn one, and the step is done again. Cutting needs no space and no second file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evolute.types import Outcome, Rollout, TrainingSample, VersionSegment


class Journal:
    """Rollouts of a run, in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Write a step's rollouts and wait until they are on disk."""
        lines = [json.dumps({"step": step, **to_record(r)}, default=str) + "\n" for r in rollouts]
        with self.path.open("a") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def cut_after(self, step: int) -> int:
        """Drop lines of steps > `step`, and a torn tail. Returns how many rollouts are left."""
        if not self.path.exists():
            return 0
        count = size = 0
        for line, record in _lines(self.path):
            if record["step"] > step:
                break
            count, size = count + 1, size + len(line)
        if size != self.path.stat().st_size:
            os.truncate(self.path, size)
        return count

    def read(self) -> Iterator[tuple[int, Rollout]]:
        """Every rollout with its step, in order."""
        if self.path.exists():
            for _, record in _lines(self.path):
                yield record.pop("step"), from_record(record)


def to_record(rollout: Rollout) -> dict[str, Any]:
    """As JSON has it."""
    return dataclasses.asdict(rollout)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines with their records; what a kill has torn, and all after it, does not count."""
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(record, dict) or "step" not in record:
                return
            yield line, record


def from_record(record: dict[str, Any]) -> Rollout:
    """The rollout that `to_record` gave."""
    samples = tuple(
        TrainingSample(
            tuple(s["prompt_ids"]),
            tuple(s["response_ids"]),
            tuple(s["loss_mask"]),
            tuple(s["rollout_logprobs"]),
            tuple(VersionSegment(**v) for v in s["weight_versions"]),
        )
        for s in record.pop("samples")
    )
    return Rollout(**{**record, "outcome": Outcome(record["outcome"]), "samples": samples})
