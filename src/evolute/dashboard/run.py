"""What a run directory holds, read once: settings, records, trials, samples.

    read_run(run_dir) -> Run

Every file may be missing, and every record may lack a field: a run may have been killed at any
moment, and an older one may know less. Nothing here fails for that.
"""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.dashboard.plots import Interval
from evolute.telemetry import read_records

Record = Mapping[str, Any]
ENDS = (("low", -math.inf), ("high", math.inf))
PHASES = ("base", "train", "trained", "tune")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its files tell it. `steps` are in order, the last record of each step."""

    name: str
    config_text: str
    config: Record
    steps: tuple[Record, ...]
    eval_by_name: Mapping[str, Record]
    records_by_kind: Mapping[str, tuple[Record, ...]]
    trials: tuple[Record, ...]
    samples: tuple[Record, ...]

    def last(self, kind: str) -> Record:
        """The newest record of a kind; empty when there is none."""
        return (self.records_by_kind.get(kind) or ({},))[-1]

    @property
    def seconds_by_phase(self) -> dict[str, float]:
        """A phase that was done in several goes counts all of them."""
        seconds: dict[str, float] = defaultdict(float)
        for record in self.records_by_kind.get("phase", ()):
            seconds[str(record.get("name"))] += real(record, "seconds") or 0.0
        return dict(seconds)

    @property
    def missing_phases(self) -> list[str]:
        return [phase for phase in PHASES if phase not in self.seconds_by_phase]

    def series(self, *names: str) -> dict[str, list[tuple[float, float]]]:
        """(step, value) of each name, where it was recorded."""
        return {
            name: [(s["step"], value) for s in self.steps if (value := real(s, name)) is not None]
            for name in names
        }


def read_run(run_dir: Path) -> Run:
    """Everything in `run_dir` that a report needs."""
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in read_records(run_dir / "metrics.jsonl"):
        by_kind[str(record.get("kind"))].append(record)
    steps = {s["step"]: s for s in by_kind["train_step"] if isinstance(s.get("step"), int)}
    text = _text(run_dir / "config.toml")
    return Run(
        name=run_dir.resolve().name,
        config_text=text,
        config=_toml(text),
        steps=tuple(steps[step] for step in sorted(steps)),
        eval_by_name={str(e.get("name")): e for e in by_kind["eval"]},
        records_by_kind={kind: tuple(records) for kind, records in by_kind.items()},
        trials=tuple(read_records(run_dir / "ledger.jsonl")),
        samples=tuple(read_records(run_dir / "samples.jsonl")),
    )


def real(record: Record, name: str) -> float | None:
    """A finite number of a record, or None."""
    value = record.get(name)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def interval(record: Record | None, name: str) -> Interval | None:
    """A record's mean with its ends; None when it has no mean."""
    mean = real(record, "mean") if record else None
    if record is None or mean is None:
        return None
    ends = [_end(record.get(side, mean), mean, none) for side, none in ENDS]
    return Interval(name, mean, ends[0], ends[1])


def _end(value: object, mean: float, none: float) -> float:
    """Null is an interval without that end; what is no number has none either, and is not shown."""
    if value is None:
        return none
    is_number = isinstance(value, int | float) and not math.isnan(value)
    return float(value) if is_number else mean  # type: ignore[arg-type]


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _toml(text: str) -> Record:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
