"""What the trials so far say: the settings each one ran with, and its speed over the baseline.

points(history) -> list[Point]       best(history) -> (change, id of the last trial kept)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolute.envs.tuning import Change, Verdict
from evolute.evolve.ledger import Trial


@dataclass(frozen=True, slots=True)
class Point:
    """One trial: everything it changed in the original system, and what came of it. A trial that
    crashed, cheated or was not measured has speed 0."""

    change: Change
    speed: float


def points(history: Sequence[Trial]) -> list[Point]:
    """In the order of the trials. A trial was compared with the best before it, so its speed over
    the baseline is the product of the ratios on its way."""
    found: list[Point] = []
    best, speed = Point({}, 1.0), 1.0
    for number, trial in enumerate(history):
        if number:
            measured = trial.ratio and trial.verdict in (Verdict.KEEP, Verdict.DISCARD)
            speed = best.speed * trial.ratio.mean if measured and trial.ratio else 0.0
        point = Point({**best.change, **trial.change}, speed)
        found.append(point)
        if trial.verdict is Verdict.KEEP:
            best = point
    return found


def best(history: Sequence[Trial]) -> tuple[Change, int]:
    """Changes kept so far, merged, and the last trial that was kept."""
    merged: Change = {}
    last = 0
    for trial in history:
        if trial.verdict is Verdict.KEEP:
            merged, last = {**merged, **trial.change}, trial.id
    return merged, last
