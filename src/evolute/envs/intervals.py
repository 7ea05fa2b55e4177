"""95 % intervals of shares and of their difference, exact in form: nothing is drawn.

wilson(successes, n) -> Interval                 a share (Wilson 1927)
paired_difference(before, after) -> Interval     two shares of the same problems (Newcombe 1998)
mean_interval(values) -> Interval                a mean of independent values (Student 1908)

A bootstrap of the difference has no width when no problem changed and covers too little when few
did; Newcombe's score interval (method 10) does not. `tests/unit/envs/test_intervals.py` measures
the coverage of both shapes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Z95 = 1.959964
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    mean: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Wilson score interval of a share; (0, 0, 1) without data."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    p, z2 = successes / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Interval(p, max(center - half, 0.0), min(center + half, 1.0))


def paired_difference(before: Mapping[str, bool], after: Mapping[str, bool]) -> Interval:
    """Accuracy after minus before, over the problems that both answered; (0, -1, 1) without any."""
    shared = before.keys() & after.keys()
    n = len(shared)
    if not n:
        return Interval(0.0, -1.0, 1.0)
    old, new = (sum(answers[p] for p in shared) for answers in (before, after))
    both = sum(before[p] and after[p] for p in shared)
    a, b = wilson(old, n), wilson(new, n)
    phi = _correlation(both, new - both, old - both, n)
    gain = b.mean - a.mean
    down, up = (b.mean - b.low, a.high - a.mean), (b.high - b.mean, a.mean - a.low)
    return Interval(gain, max(gain - _joint(*down, phi), -1.0), min(gain + _joint(*up, phi), 1.0))


def t95(n: int) -> float:
    """Two-sided 95 % quantile of Student's t for n >= 2 values: exact to 0.003."""
    z, v = Z95, n - 1  # a table for few; an expansion for more (Fisher and Cornish 1960)
    return T95.get(n) or z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of a mean; at least two values."""
    mean = statistics.fmean(values)
    half = t95(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


# -- internals ---------------------------------------------------------------


def _joint(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def _correlation(both: int, gained: int, lost: int, n: int) -> float:
    """Of the two answers to one problem; a positive one is shrunk by Newcombe's correction."""
    neither = n - both - gained - lost
    rows = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if not rows:
        return 0.0
    cross: float = both * neither - gained * lost
    if cross > 0:
        cross = max(cross - n / 2, 0)
    return cross / math.sqrt(rows)
