"""What may be tuned: named dimensions with ranges, for people, samplers and grammars alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evolute.types import ConfigError
from evolute.types.settings import nearest

Value = int | str | bool
Change = Mapping[str, Value]  # dotted setting -> value; what it leaves out stays as it is


@dataclass(frozen=True, slots=True)
class Dimension:
    """One setting and the values that may be tried."""

    name: str
    choices: tuple[Value, ...]
    start: Value | None = None  # in force before any change; None: unknown, or decided by itself


@dataclass(frozen=True, slots=True)
class Space:
    """Dimensions by name, in order."""

    dimensions: tuple[Dimension, ...]

    def settings(self, change: Change) -> Change:
        """Every dimension's value under `change`; those that nobody knows are left out."""
        start = {d.name: d.start for d in self.dimensions if d.start is not None}
        return {**start, **change}

    def move(self, source: random.Random, change: Change, first: int) -> Change:
        """Another value of the dimension number `first`, and half the time of one more, drawn at
        random and unlike what is in force under `change`."""
        now, number = self.settings(change), first % len(self.dimensions)
        rest = [d for i, d in enumerate(self.dimensions) if i != number]
        more = source.sample(rest, min(source.randint(0, 1), len(rest)))
        drawn = {}
        for one in (self.dimensions[number], *more):
            others = [value for value in one.choices if value != now.get(one.name)]
            drawn[one.name] = source.choice(others or list(one.choices))
        return drawn

    def open(self, tried: Iterable[Change]) -> Space:
        """The same dimensions with the values that `tried` holds least often. Who draws from what
        is open gives each value its turn, in far fewer trials than pure chance takes."""
        seen = Counter(item for settings in tried for item in settings.items())
        dimensions = []
        for d in self.dimensions:
            least = min(seen[d.name, value] for value in d.choices)
            few = tuple(value for value in d.choices if seen[d.name, value] == least)
            dimensions.append(Dimension(d.name, few, d.start))
        return Space(tuple(dimensions))

    def draw(self, source: random.Random) -> Change:
        """A value for every dimension."""
        return {d.name: source.choice(d.choices) for d in self.dimensions}

    def check(self, change: Mapping[str, Any]) -> Change:
        """`change` itself. Raises ConfigError for what lies outside the space."""
        known = {d.name: d.choices for d in self.dimensions}
        for name, value in change.items():
            if name not in known:
                raise ConfigError(f"no tunable setting {name!r}. {nearest(name, known)}")
            if value not in known[name]:
                raise ConfigError(f"{name} = {value!r} is not one of {list(known[name])}.")
        return dict(change)

    def json_schema(self) -> str:
        """A schema whose every instance is a full, valid change."""
        properties = {d.name: {"enum": list(d.choices)} for d in self.dimensions}
        return json.dumps(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )


def engine_space(start: Mapping[str, Any] | None = None) -> Space:
    """Settings of the engine; `start` holds those in force, which may always be tried."""
    choices: dict[str, tuple[Value, ...]] = {
        "max_running": (1, 2, 4, 8, 16, 32, 64, 128),
        "token_budget": (64, 128, 256, 512, 1024, 2048),
        "page_size": (1, 2, 4, 8, 16),
        "prefix_cache": (True, False),
        "policy": ("fcfs", "lpm", "dlpm"),
        "speculation": ("none", "ngram"),
        "draft_tokens": (2, 4, 8),
        "speculate_up_to": (1, 4, 16),
        "num_threads": (1, 2),
    }
    dimensions = []
    for name, values in choices.items():
        now = (start or {}).get(name)
        more = () if now is None or now in values else (now,)
        dimensions.append(Dimension(name, (*values, *more), now))
    return Space(tuple(dimensions))
