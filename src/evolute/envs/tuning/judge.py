"""The judge: same answers, and faster than the noise. Proposers see verdicts, never this file.

Baseline and candidate are measured in turn, A B A B ..., and compared pair by pair. A change is
kept when the lower end of the 95 % interval of the ratio (Student's t on log ratios) is above
1 + margin. Other answers than the baseline's are thrown out however fast they came.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import statistics
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from evolute.envs.intervals import mean_interval
from evolute.envs.tuning.space import Change
from evolute.envs.tuning.trial import Measurement, Runner
from evolute.types import ConfigError

MAX_PAIRS = 10
HOPELESS = 0.9  # a first ratio below this is not measured again
LARGE = 1.25  # a mean above this is measured as often again before noise may hide it


class Verdict(StrEnum):
    KEEP = "keep"
    DISCARD = "discard"
    CHEAT = "cheat"  # other answers than the baseline's
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Candidate's speed over the baseline's, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    why: str
    ratio: Ratio | None = None
    tokens_per_s: tuple[float, float] | None = None  # baseline and candidate, geometric means


class Judge:
    """Frozen: its digest stands in the ledger, and trials compare only under the same digest."""

    def __init__(
        self,
        runner: Runner,
        workload: Path,
        *,
        pairs: int = 3,
        margin: float = 0.03,
        conditions: str = "",  # what else trials must share to compare: model, settings at first
    ) -> None:
        if not 2 <= pairs <= MAX_PAIRS:
            raise ConfigError(f"pairs is {pairs}; it must lie between 2 and {MAX_PAIRS}.")
        self._runner, self._pairs, self._margin = runner, pairs, margin
        rules = (__name__, mean_interval.__module__)
        source = "".join(inspect.getsource(sys.modules[name]) for name in rules).encode()
        self.digest = hashlib.sha256(
            source + workload.read_bytes() + conditions.encode()
        ).hexdigest()[:16]

    async def judge(self, baseline: Change, candidate: Change) -> Judgement:
        """Measure both and decide."""
        logs: list[float] = []
        speeds: list[tuple[float, float]] = []
        pairs = self._pairs
        while len(logs) < pairs:
            old = await self._runner.measure(baseline)
            if old.error:
                return Judgement(Verdict.CRASH, f"the baseline itself failed: {old.error}")
            new = await self._runner.measure(candidate)
            bad = _refusal(old, new)
            if bad:
                return bad
            logs.append(math.log(new.tokens_per_s / old.tokens_per_s))
            speeds.append((old.tokens_per_s, new.tokens_per_s))
            if len(logs) == 1 and logs[0] < math.log(HOPELESS):
                ratio = Ratio(math.exp(logs[0]), 0.0, math.inf, 1)
                return Judgement(Verdict.DISCARD, f"{ratio.mean:.2f} times the baseline", ratio)
            if len(logs) == self._pairs and self._is_hidden(interval(logs)):
                pairs = min(2 * self._pairs, MAX_PAIRS)
        return dataclasses.replace(self._decide(interval(logs)), tokens_per_s=_means(speeds))

    def _is_hidden(self, ratio: Ratio) -> bool:
        return ratio.mean > LARGE and ratio.low <= 1 + self._margin

    def _decide(self, ratio: Ratio) -> Judgement:
        text = f"{ratio.mean:.2f} times the baseline ({ratio.low:.2f} to {ratio.high:.2f})"
        if ratio.low > 1 + self._margin:
            return Judgement(Verdict.KEEP, text, ratio)
        return Judgement(Verdict.DISCARD, f"{text}: within the noise or slower", ratio)


def interval(logs: list[float]) -> Ratio:
    """Geometric mean ratio and Student's t interval of paired log ratios (at least two)."""
    found = mean_interval(logs)
    return Ratio(math.exp(found.mean), math.exp(found.low), math.exp(found.high), len(logs))


def _means(speeds: list[tuple[float, float]]) -> tuple[float, float]:
    old, new = (statistics.geometric_mean(side) for side in zip(*speeds))
    return old, new


def _refusal(old: Measurement, new: Measurement) -> Judgement | None:
    if new.error:
        return Judgement(Verdict.CRASH, new.error)
    if new.digest != old.digest:
        return Judgement(Verdict.CHEAT, "its answers differ from the baseline's")
    if not new.tokens_per_s > 0:
        return Judgement(Verdict.CRASH, "it reported no speed")
    return None
