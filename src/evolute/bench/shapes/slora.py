"""Requests for many adapters (S-LoRA, arXiv 2311.03285, section 7): which, how long, when.

uniform  100 adapters, all as popular; Poisson arrivals, 2 a second, 300 s
skewed   the same with a power law (alpha 0.1): few adapters get most
bursty   uniform with bursts (gamma gaps, cv 4)
arena    26 adapters by a Zipf law, lognormal lengths (mean 85 in, 165 out), as its real trace has

`trace` draws in the order of the paper's generator, from the same generator of numbers, so that
seed 42 gives its traces exactly; what the prompts say is made up there too. One process gives all
arrivals, as its code does and its text does not. A scale shrinks duration and tokens, not rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from evolute.bench.shapes.item import Dice, WorkItem

SEED = 42  # of the published traces; a workload's own seed is added
LOW, HIGH = 8, 512  # tokens of prompts and outputs; the upper end is not drawn
ARENA_ADAPTERS, ARENA_IN, ARENA_OUT, ARENA_SIGMA = 26, 85.0, 165.0, 1.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Parallel arrays, one entry a request."""

    adapters: list[int]
    num_prompt: list[int]
    num_new: list[int]
    arrival_s: list[float]


def trace(
    num_adapters: int, per_s: float, duration_s: float, *, alpha: float, cv: float, seed: int = SEED
) -> Trace:
    """The power law's density is alpha x^(alpha-1): alpha 1 is uniform, 0.1 goes to adapter 0."""
    draw = np.random.RandomState(seed)
    number = max(int(per_s * duration_s), 1)
    adapters = np.floor(draw.power(alpha, number) * num_adapters).astype(int)
    num_prompt = draw.randint(LOW, HIGH, number)
    num_new = draw.randint(LOW, HIGH, number)
    shape = 1 / cv**2
    arrivals = np.cumsum(draw.gamma(shape, cv**2 / per_s, number))
    return Trace(adapters.tolist(), num_prompt.tolist(), num_new.tolist(), arrivals.tolist())


def by_power_law(dice: Dice, *, alpha: float = 1.0, cv: float = 1.0) -> list[WorkItem]:
    made = trace(100, 2.0, 300.0 * dice.scale, alpha=alpha, cv=cv, seed=SEED + dice.seed)
    return _items(made, dice)


def arena(dice: Dice) -> list[WorkItem]:
    number, now, times = dice.sized(2.0 * 300.0), 0.0, []
    for _ in range(number):
        now += dice.source.expovariate(2.0)
        times.append(now)
    weights = [1 / (rank + 1) for rank in range(ARENA_ADAPTERS)]
    adapters = dice.source.choices(range(ARENA_ADAPTERS), weights=weights, k=number)
    num_prompt = [_lognormal(dice, ARENA_IN) for _ in range(number)]
    num_new = [_lognormal(dice, ARENA_OUT) for _ in range(number)]
    return _items(Trace(adapters, num_prompt, num_new, times), dice)


SHAPES: dict[str, Callable[[Dice], list[WorkItem]]] = {
    "slora-uniform": by_power_law,
    "slora-skewed": partial(by_power_law, alpha=0.1),
    "slora-bursty": partial(by_power_law, cv=4.0),
    "slora-arena": arena,
}


# -- internals ---------------------------------------------------------------


def _items(made: Trace, dice: Dice) -> list[WorkItem]:
    return [
        WorkItem(
            f"slora-{i}",
            dice.text(dice.sized(made.num_prompt[i])),
            dice.sized(made.num_new[i]),
            round(made.arrival_s[i], 6),
            adapter=f"adapter-{made.adapters[i]}",
        )
        for i in range(len(made.adapters))
    ]


def _lognormal(dice: Dice, mean: float) -> int:
    """Cut at 1,024, as chats are."""
    middle = math.log(mean) - ARENA_SIGMA**2 / 2
    return min(max(round(dice.source.lognormvariate(middle, ARENA_SIGMA)), 1), 1024)
