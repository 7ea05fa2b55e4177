"""What may be tuned: named dimensions with ranges, for people, samplers and grammars alike."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Space:
    """Dimensions by name, in order."""

    dimensions: tuple[Dimension, ...]

    def sample(self, source: random.Random) -> Change:
        """One to three dimensions changed at random."""
        picked = source.sample(self.dimensions, source.randint(1, min(3, len(self.dimensions))))
        return {d.name: source.choice(d.choices) for d in picked}

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


def engine_space() -> Space:
    """Settings of the engine. precision is among them though it changes the answers: the judge
    must throw that out, and a proposer may learn so."""
    return Space(
        (
            Dimension("max_running", (1, 2, 4, 8, 16, 32, 64, 128)),
            Dimension("token_budget", (64, 128, 256, 512, 1024, 2048)),
            Dimension("page_size", (1, 2, 4, 8, 16)),
            Dimension("prefix_cache", (True, False)),
            Dimension("policy", ("fcfs", "lpm")),
            Dimension("num_threads", (1, 2)),
        )
    )
