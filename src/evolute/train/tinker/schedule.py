"""Whose requests are next? Pure: a value in, a value out.

choose(queues, progress, served, paused, now, settings) -> Choice

- Requests of one model keep their order: by number, or by arrival where a client gives none.
- Forward passes that follow each other are computed together, up to the next barrier.
- A missing number is waited for, but not for long.
- Models take turns: whoever was served longest ago is next. A paused one is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evolute.train.tinker.records import Kind

BETWEEN = 1e-3  # places a request without a number behind the last one that has


@dataclass(frozen=True, slots=True)
class Item:
    """A request that waits."""

    id: str
    model_id: str
    kind: Kind
    seq: int | None
    place: float  # in the model's order
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do now; or nothing, and how long that stays true (None: until something comes)."""

    items: tuple[Item, ...] = ()
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    look_ahead: int = 8
    gap_s: float = 1.0


def choose(
    queues: Mapping[str, Sequence[Item]],
    progress: Mapping[str, int],
    served: Mapping[str, int],
    paused: Collection[str],
    now: float,
    rules: Rules = Rules(),
) -> Choice:
    """`progress` is the last number done of each model, `served` when it was last served."""
    waits: list[float] = []
    for model_id in sorted(queues, key=lambda m: (served.get(m, -1), m)):
        items = sorted(queues[model_id], key=lambda item: item.place)
        if not items or model_id in paused:
            continue
        left_s = _gap_left(items[0], progress.get(model_id, 0), now, rules.gap_s)
        if left_s > 0:
            waits.append(left_s)
            continue
        return Choice(_together(items, rules.look_ahead))
    return Choice(wait_s=min(waits, default=None))


# -- internals ---------------------------------------------------------------


def _together(items: Sequence[Item], look_ahead: int) -> tuple[Item, ...]:
    first = items[0]
    if not first.kind.is_pass:
        return (first,)
    chosen = [first]
    for item in items[1:look_ahead]:
        follows = item.seq is None or chosen[-1].seq is None or item.seq == chosen[-1].seq + 1
        if not item.kind.is_pass or not follows:
            break
        chosen.append(item)
    return tuple(chosen)


def _gap_left(first: Item, last_seq: int, now: float, gap_s: float) -> float:
    """Seconds that a predecessor of `first` may still take to come."""
    if first.seq is None or first.seq <= last_seq + 1:
        return 0.0
    return first.arrived_s + gap_s - now
