"""What is sent when: a workload and the wishes of a command line become a plan.

plan(items, concurrency=32)            closed loop: so many in flight, the next when one has ended
plan(items, rate=2.0, cv=1.0)          open loop: gamma gaps; cv 1 is a Poisson process
plan(items)                            open loop at the recorded moments; without any, all at once
another(plan, round)                   the same lengths, sharing and moments with other tokens
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolute.bench.shapes import WorkItem
from evolute.bench.shapes.item import FIRST_ID
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`concurrency` requests in flight, or none given: each at its `arrival_s`."""

    items: tuple[WorkItem, ...]
    concurrency: int | None

    @property
    def is_open(self) -> bool:
        return self.concurrency is None


def plan(
    items: Sequence[WorkItem],
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    cv: float = 1.0,
    speed: float = 1.0,
    requests: int | None = None,
    seed: int = 0,
) -> LoadPlan:
    """Raises ConfigError for wishes that exclude one another or cannot be.

    At a rate, gaps are drawn between requests that wait for no other; what waits is due when
    what it waits for has ended. `speed` divides recorded moments.
    """
    _check(concurrency, rate, cv, speed, requests)
    chosen = _as_many(items, len(items) if requests is None else requests)
    if rate is not None:
        return LoadPlan(_at_rate(chosen, rate, cv, random.Random(f"arrivals {seed}")), None)
    if concurrency is not None:
        return LoadPlan(chosen, concurrency)
    if not any(item.arrival_s for item in chosen):
        if speed != 1:
            raise ConfigError(
                "--speed plays recorded moments faster and this workload has none; use --rate."
            )
        return LoadPlan(chosen, len(chosen))
    return LoadPlan(tuple(replace(i, arrival_s=i.arrival_s / speed) for i in chosen), None)


def another(work: LoadPlan, number: int, vocab_size: int) -> LoadPlan:
    """Round 0 is the plan itself. In later ones every token but the special ones is exchanged for
    another, the same everywhere, so that no round is answered from the cache of one before it."""
    if not number:
        return work
    width = vocab_size - FIRST_ID
    shift = random.Random(f"tokens {number}").randrange(1, width)

    def exchanged(token: int) -> int:
        return token if token < FIRST_ID else FIRST_ID + (token - FIRST_ID + shift) % width

    items = (replace(i, prompt=tuple(map(exchanged, i.prompt))) for i in work.items)
    return replace(work, items=tuple(items))


# -- internals ---------------------------------------------------------------


def _check(
    concurrency: int | None, rate: float | None, cv: float, speed: float, requests: int | None
) -> None:
    if concurrency is not None and rate is not None:
        raise ConfigError("--concurrency waits for answers and --rate does not; keep one of them.")
    if cv != 1 and rate is None:
        raise ConfigError("--cv shapes the gaps of --rate; add --rate R.")
    if speed != 1 and (rate is not None or concurrency is not None):
        raise ConfigError("--speed is for recorded moments; drop --rate and --concurrency, or it.")
    for name, value in (("concurrency", concurrency), ("requests", requests)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1.")
    for name, number in (("rate", rate), ("cv", cv), ("speed", speed)):
        if number is not None and not 0 < number < float("inf"):
            raise ConfigError(f"--{name} is {number:g}; it must be above 0.")


def _as_many(items: Sequence[WorkItem], number: int) -> tuple[WorkItem, ...]:
    """The first `number`; when there are fewer, all come again and again, later and renamed."""
    length = max(item.arrival_s for item in items)
    length += length / max(len(items) - 1, 1)  # and one gap
    chosen: list[WorkItem] = []
    for turn in range(-(-number // len(items))):
        chosen += [_again(item, turn, turn * length) for item in items]
    return tuple(chosen[:number])


def _again(item: WorkItem, turn: int, later_s: float) -> WorkItem:
    if not turn:
        return item
    return replace(
        item,
        id=f"{item.id}#{turn}",
        arrival_s=item.arrival_s + later_s,
        after=tuple(f"{id}#{turn}" for id in item.after),
        program=item.program and f"{item.program}#{turn}",
    )


def _at_rate(
    items: Sequence[WorkItem], rate: float, cv: float, source: random.Random
) -> tuple[WorkItem, ...]:
    shape, now, moved = 1 / cv**2, 0.0, []
    due: dict[str, float] = {}
    for item in items:
        if not item.after:
            now += source.gammavariate(shape, cv**2 / rate)
        due[item.id] = max((due[id] for id in item.after), default=now)
        moved.append(replace(item, arrival_s=due[item.id]))
    return tuple(moved)
