"""Is B faster than A? Both measured in turn, A B A B ..., and compared pair by pair.

    compare(measure_a, measure_b, rounds=5) -> Comparison
    table(comparisons) -> text

A machine drifts; neighbours come and go. Pairs that lie side by side share the drift, so their
ratio is what is reported: its geometric mean and the 95 % interval (Student's t, log ratios).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolute.envs.tuning import Ratio, interval
from evolute.types import ConfigError

MIN_ROUNDS, MAX_ROUNDS = 5, 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """B's speed over A's, and all measurements in order."""

    name: str
    ratio: Ratio
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def is_clear(self) -> bool:
        """The interval does not hold 1."""
        return self.ratio.low > 1 or self.ratio.high < 1


def compare(
    name: str,
    measure_a: Callable[[], float],
    measure_b: Callable[[], float],
    *,
    rounds: int = MIN_ROUNDS,
    warm_up: int = 1,
) -> Comparison:
    """Measure speeds (higher is better) in turn; every other round starts with B.

    Raises ConfigError for too few or too many rounds and for a speed that is not positive.
    """
    if not MIN_ROUNDS <= rounds <= MAX_ROUNDS:
        raise ConfigError(f"rounds is {rounds}; it must lie between {MIN_ROUNDS} and {MAX_ROUNDS}.")
    for _ in range(warm_up):
        measure_a(), measure_b()
    pairs = [_pair(measure_a, measure_b, b_first=bool(i % 2)) for i in range(rounds)]
    for a, b in pairs:
        if not (a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b)):
            raise ConfigError(f"{name}: measured {a} and {b}; a speed must be positive and finite.")
    ratio = interval([math.log(b / a) for a, b in pairs])
    return Comparison(name, ratio, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def table(comparisons: Sequence[Comparison]) -> str:
    """One line each: name, ratio, interval, n, and whether it is clear of 1."""
    width = max([len(c.name) for c in comparisons], default=4)
    lines = [f"{'name':{width}}  B / A   95 % interval    n"]
    for c in comparisons:
        r = c.ratio
        word = "" if c.is_clear else "  within the noise"
        lines.append(
            f"{c.name:{width}}  {r.mean:5.2f}   {r.low:.2f} to {r.high:.2f}   {r.n:3}{word}"
        )
    return "\n".join(lines)


def _pair(
    measure_a: Callable[[], float], measure_b: Callable[[], float], *, b_first: bool
) -> tuple[float, float]:
    if b_first:
        b = measure_b()
        return measure_a(), b
    return measure_a(), measure_b()
