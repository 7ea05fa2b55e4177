"""Traffic that can be replayed: recorded from a run, or made from a seed.

    make_workload("shared", vocab_size) -> list[WorkItem]
    save_workload(items, path), load_workload(path)

One JSON line a request: {"id", "prompt": [ids], "max_new_tokens", "arrival_s"}. Token ids are
random, so no tokenizer is needed and every model of the same vocabulary gets the same work.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evolute.types import ConfigError
from evolute.types.settings import nearest

FIRST_ID = 16  # lower ids are special tokens in the vocabularies we know


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One request; `max_new_tokens` are made whatever the model says."""

    id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    arrival_s: float = 0.0  # seconds after the start; only a paced replay waits for it


def make_workload(
    shape: str, vocab_size: int, *, seed: int = 0, scale: float = 1.0
) -> list[WorkItem]:
    """A named workload; equal arguments give equal requests. `scale` shrinks numbers of requests
    and tokens alike, to one at least. Raises ConfigError for an unknown name.

    batch     64 requests, prompts of 32-256, 128 new
    shared    64 of 512 shared + 32 own, 32 new
    single    one of 128, 128 new
    chat      8 conversations of 6 turns; each prompt holds the turns before it
    arrivals  64 requests like batch, at random moments, 4 a second
    """
    if shape not in SHAPES:
        raise ConfigError(f"no workload {shape!r}. {nearest(shape, SHAPES)}")
    return _MAKERS[shape](Dice(random.Random(seed), vocab_size, scale))


def save_workload(items: Sequence[WorkItem], path: Path) -> None:
    """Write the requests in order; replaces the file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    temporary.replace(path)


def load_workload(path: Path) -> list[WorkItem]:
    """Raises ConfigError for a missing, damaged or empty file."""
    try:
        values = [json.loads(line) for line in path.read_text().splitlines() if line]
        items = [
            WorkItem(
                str(v["id"]),
                tuple(map(int, v["prompt"])),
                int(v["max_new_tokens"]),
                float(v.get("arrival_s", 0.0)),
            )
            for v in values
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"workload {path} cannot be read: {error!r}") from error
    if not items:
        raise ConfigError(f"workload {path} holds no requests; record or make one.")
    return items


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dice:
    """Random tokens and scaled numbers."""

    source: random.Random
    vocab_size: int
    scale: float

    def sized(self, number: int) -> int:
        return max(int(number * self.scale), 1)

    def tokens(self, number: int) -> tuple[int, ...]:
        return tuple(self.source.randrange(FIRST_ID, self.vocab_size) for _ in range(number))


def _batch(dice: Dice, name: str = "batch") -> list[WorkItem]:
    return [
        WorkItem(f"{name}-{i}", dice.tokens(dice.sized(dice.source.randint(32, 256))), new)
        for new in (dice.sized(128),)
        for i in range(dice.sized(64))
    ]


def _shared(dice: Dice) -> list[WorkItem]:
    prefix = dice.tokens(dice.sized(512))
    return [
        WorkItem(f"shared-{i}", (*prefix, *dice.tokens(dice.sized(32))), dice.sized(32))
        for i in range(dice.sized(64))
    ]


def _single(dice: Dice) -> list[WorkItem]:
    return [WorkItem("single-0", dice.tokens(dice.sized(128)), dice.sized(128))]


def _chat(dice: Dice) -> list[WorkItem]:
    """The replies that later turns quote are random too: a recording of somebody's talk."""
    items = []
    for talk in range(dice.sized(8)):
        prompt: tuple[int, ...] = ()
        for turn in range(6):
            prompt += dice.tokens(dice.sized(dice.source.randint(16, 64)))
            items.append(WorkItem(f"chat-{talk}-{turn}", prompt, dice.sized(48), 2.0 * turn))
            prompt += dice.tokens(dice.sized(48))
    return sorted(items, key=lambda item: item.arrival_s)


def _arrivals(dice: Dice) -> list[WorkItem]:
    now, items = 0.0, []
    for item in _batch(dice, "arrivals"):
        now += dice.source.expovariate(4.0)
        items.append(WorkItem(item.id, item.prompt, item.max_new_tokens, round(now, 4)))
    return items


_MAKERS: dict[str, Callable[[Dice], list[WorkItem]]] = {
    "batch": _batch,
    "shared": _shared,
    "single": _single,
    "chat": _chat,
    "arrivals": _arrivals,
}
SHAPES = tuple(_MAKERS)
