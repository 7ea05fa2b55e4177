"""How long is an episode? Turns, tokens and waits drawn from distributions, the same at each run.

lengths = Lengths(simulation)
lengths.episode(problem, index, seed) -> list[Turn]
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evolute.train.simulation.settings import Spread, TrainingSimulation
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens that are sampled, then seconds that a tool takes."""

    tokens: float
    tool_s: float


class Lengths:
    """Draws of one simulation."""

    def __init__(self, simulation: TrainingSimulation) -> None:
        self._seed, self._shared = simulation.seed, simulation.group_spread
        self._turns = _drawer(simulation.turns)
        self._tokens = _drawer(simulation.tokens)
        self._tool_s = _drawer(simulation.tool_s)

    def episode(self, problem: str, index: int, seed: int) -> list[Turn]:
        """The turns of one try. Siblings share `group_spread` of their length's logarithm."""
        own = random.Random(f"{self._seed}/{problem}/{index}/{seed}")
        common = random.Random(f"{self._seed}/{problem}")
        count = max(1, round(self._turns(own)))
        turns = []
        for turn in range(count):
            tokens = max(self._tokens(own), 1.0)
            if self._shared:
                whole = max(self._tokens(common), 1.0)
                tokens = math.exp(
                    self._shared * math.log(whole) + (1 - self._shared) * math.log(tokens)
                )
            turns.append(Turn(tokens, self._tool_s(own) if turn + 1 < count else 0.0))
        return turns


# -- internals ---------------------------------------------------------------


def _drawer(spread: Spread) -> Callable[[random.Random], float]:
    most = spread.most or math.inf
    if spread.kind == "fixed":
        return lambda source: min(spread.mean, most)
    if spread.kind == "uniform":
        low, high = spread.mean * (1 - spread.spread), spread.mean * (1 + spread.spread)
        return lambda source: min(source.uniform(low, high), most)
    if spread.kind == "lognormal":
        if not spread.mean:
            return lambda source: 0.0
        middle = math.log(spread.mean) - spread.spread**2 / 2
        return lambda source: min(source.lognormvariate(middle, spread.spread), most)
    numbers = _read(Path(spread.file))
    return lambda source: min(source.choice(numbers), most)


def _read(path: Path) -> list[float]:
    try:
        numbers = [float(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"trace {path} must hold one number a line: {error}") from error
    if not numbers or min(numbers) < 0:
        raise ConfigError(f"trace {path} has no numbers, or negative ones.")
    return numbers
