"""Every trial ever made, one JSON line each; what the proposers learn from and people read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evolute.envs.tuning import Change, Ratio, Verdict
from evolute.telemetry import RecordWriter, read_records, repair


@dataclass(frozen=True, slots=True)
class Trial:
    """One line. Trial 0 is the unchanged system; `parent` is what a change was compared with."""

    id: int
    parent: int
    proposer: str
    change: Change
    judge: str  # digest; trials compare only if equal
    verdict: Verdict
    why: str
    ratio: Ratio | None = None
    seconds: float = 0.0


class Ledger:
    """Append-only; a torn last line is repaired, a resumed run goes on with the next id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        repair(path)
        self.trials = [_trial(record) for record in read_records(path)]

    def append(self, trial: Trial) -> None:
        with RecordWriter(self.path) as writer:
            writer.write(_record(trial))
        self.trials.append(trial)

    def of_judge(self, digest: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.judge == digest]


def _record(trial: Trial) -> dict[str, Any]:
    """JSON has no infinity: an interval without an end, of one pair, has null there."""
    found = asdict(trial)
    if trial.ratio and not math.isfinite(trial.ratio.high):
        found["ratio"]["high"] = None
    return found


def _trial(record: dict[str, Any]) -> Trial:
    ratio = record["ratio"] and Ratio(**record["ratio"])
    if ratio and ratio.high is None:
        ratio = replace(ratio, high=math.inf)
    return Trial(**{**record, "ratio": ratio, "verdict": Verdict(record["verdict"])})
