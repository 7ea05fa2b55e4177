"""Every trial ever made, one JSON line each; what the proposers learn from and people read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
            writer.write(asdict(trial))
        self.trials.append(trial)

    def of_judge(self, digest: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.judge == digest]


def _trial(record: dict[str, Any]) -> Trial:
    ratio = record["ratio"] and Ratio(**record["ratio"])
    return Trial(**{**record, "ratio": ratio, "verdict": Verdict(record["verdict"])})
