"""Who asks how often, in the fairness paper's experiments (VTC, arXiv 2401.00588, section 5).

overload              1.5 and 3 requests a second, 360 s (figure 3)
proportional          .25, .5 and 1.5, 600 s (figure 4)
on_off_less           .5 for 60 s of each 120, and 2 (figure 5)
on_off_overload       2 for 60 s of each 120, and 3 (figure 6)
poisson_short_long    8 of 64/64 tokens and 1.5 of 256/256, Poisson (figure 7)
poisson_short_long_2  8 of 64/512 and 1.5 of 512/64, Poisson (figure 8)
increase              .5, and .2 that rises to 2 (figure 9)
dist_shift            .5 on and off, and 2; then 1 and 1; then .5 and 1.5; 900 s (figure 10)
overload_multi        three clients of .4 and five of .6
weighted              .8, .8, 1.2 and 1.6, meant for weights 1:2:3:4
overload_256, _512, _768   3 and 6, 1.5 and 3, 1 and 2 of so many tokens (figure 15)
arena                 27 clients, 1,500 requests in 600 s, as the Chatbot Arena log has them

Prompts and outputs have 256 tokens where nothing else is said, and arrivals are evenly spaced
unless they are Poisson. Durations that the paper's text leaves open are 600 s. A scale shrinks
durations, the on-off period and tokens and leaves the rates. The arena's lengths are drawn by
linear interpolation of its published quantiles; the log itself is not ours to ship.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from evolute.bench.shapes.item import Dice, WorkItem

PERIOD_S = 60.0  # a client that goes on and off is on for this long, then off as long
ARENA_COUNTS = (
    *(296, 262, 199, 120, 67, 66, 56, 46, 44, 43, 40, 36, 31, 26),
    *(25, 23, 22, 22, 19, 19, 12, 11, 7, 3, 2, 2, 1),
)  # fmt: skip
ARENA_PER_S, ARENA_S = 2.5, 600.0
QUANTILES = (0.0, 0.05, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
ARENA_INPUTS = (1, 2, 13, 40, 161, 432, 653, 902, 1021)
ARENA_OUTPUTS = (1, 10, 62, 211, 458, 513, 513, 785, 977)


@dataclass(frozen=True, slots=True)
class Phase:
    """One client's arrivals from `start_s` to `end_s`."""

    per_s: float
    start_s: float = 0.0
    end_s: float = 600.0
    rises_to: float | None = None  # the rate at the end, reached in a straight line
    is_on_off: bool = False
    is_poisson: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    phases: tuple[Phase, ...]
    num_prompt: int = 256
    num_new: int = 256


def steady(*rates: float, end_s: float = 600.0, num_tokens: int = 256) -> tuple[Client, ...]:
    phases = (Phase(rate, end_s=end_s) for rate in rates)
    return tuple(Client((phase,), num_tokens, num_tokens) for phase in phases)


def poisson(rate: float, num_prompt: int, num_new: int) -> Client:
    return Client((Phase(rate, is_poisson=True),), num_prompt, num_new)


CLIENTS: dict[str, tuple[Client, ...]] = {
    "overload": steady(1.5, 3.0, end_s=360.0),
    "proportional": steady(0.25, 0.5, 1.5),
    "on_off_less": (Client((Phase(0.5, is_on_off=True),)), Client((Phase(2.0),))),
    "on_off_overload": (Client((Phase(2.0, is_on_off=True),)), Client((Phase(3.0),))),
    "poisson_short_long": (poisson(8.0, 64, 64), poisson(1.5, 256, 256)),
    "poisson_short_long_2": (poisson(8.0, 64, 512), poisson(1.5, 512, 64)),
    "increase": (Client((Phase(0.5),)), Client((Phase(0.2, rises_to=2.0),))),
    "dist_shift": (
        Client((Phase(0.5, 0, 300, is_on_off=True), Phase(1.0, 300, 600), Phase(0.5, 600, 900))),
        Client((Phase(2.0, 0, 300), Phase(1.0, 300, 600), Phase(1.5, 600, 900))),
    ),
    "overload_multi": steady(*[0.4] * 3, *[0.6] * 5),
    "weighted": steady(0.8, 0.8, 1.2, 1.6),
    "overload_256": steady(3.0, 6.0),
    "overload_512": steady(1.5, 3.0, num_tokens=512),
    "overload_768": steady(1.0, 2.0, num_tokens=768),
}


def by_clients(clients: Sequence[Client], dice: Dice) -> list[WorkItem]:
    """All clients' requests in the order of their arrival."""
    items = []
    for number, client in enumerate(clients):
        times = itertools.chain.from_iterable(_times(phase, dice) for phase in client.phases)
        for i, moment in enumerate(times):
            prompt = dice.text(dice.sized(client.num_prompt))
            new, name = dice.sized(client.num_new), f"client-{number}"
            items.append(WorkItem(f"{name}-{i}", prompt, new, round(moment, 6), tenant=name))
    return sorted(items, key=lambda item: item.arrival_s)


def arena(dice: Dice) -> list[WorkItem]:
    number = dice.sized(ARENA_PER_S * ARENA_S)
    clients = dice.source.choices(range(len(ARENA_COUNTS)), weights=ARENA_COUNTS, k=number)
    now, items = 0.0, []
    for i, client in enumerate(clients):
        now += dice.source.expovariate(ARENA_PER_S)
        prompt = dice.text(dice.sized(_quantile(ARENA_INPUTS, dice.source.random())))
        new = dice.sized(_quantile(ARENA_OUTPUTS, dice.source.random()))
        name = f"client-{client}"
        items.append(WorkItem(f"{name}-{i}", prompt, new, round(now, 6), tenant=name))
    return items


SHAPES: dict[str, Callable[[Dice], list[WorkItem]]] = {
    **{f"vtc-{name}": partial(by_clients, clients) for name, clients in CLIENTS.items()},
    "vtc-arena": arena,
}


# -- internals ---------------------------------------------------------------


def _times(phase: Phase, dice: Dice) -> Iterator[float]:
    """Moments of arrival; a phase too short for any has one, at its start."""
    start, length = phase.start_s * dice.scale, (phase.end_s - phase.start_s) * dice.scale
    period, has_any = PERIOD_S * dice.scale, False
    for moment in itertools.takewhile(lambda t: t < length, _moments(phase, length, dice)):
        if not phase.is_on_off or moment // period % 2 == 0:
            has_any = True
            yield start + moment
    if not has_any:
        yield start


def _moments(phase: Phase, length: float, dice: Dice) -> Iterator[float]:
    if phase.is_poisson:
        yield from itertools.accumulate(
            dice.source.expovariate(phase.per_s) for _ in itertools.repeat(None)
        )
    slope = 0.0 if phase.rises_to is None else (phase.rises_to - phase.per_s) / length
    for i in itertools.count():  # the moment by which i requests are due
        if slope:
            yield (math.sqrt(phase.per_s**2 + 2 * slope * i) - phase.per_s) / slope
        else:
            yield i / phase.per_s


def _quantile(values: Sequence[int], part: float) -> float:
    high = max(bisect.bisect_left(QUANTILES, part), 1)
    low = high - 1
    share = (part - QUANTILES[low]) / (QUANTILES[high] - QUANTILES[low])
    return values[low] + share * (values[high] - values[low])
