"""One request of a workload, and the dice that made ones are drawn with."""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_ID = 16  # lower ids are special tokens in the vocabularies we know


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One request; `max_new_tokens` are made whatever the model says, unless a schema ends it."""

    id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    arrival_s: float = 0.0  # seconds after the start; only a paced replay or an open loop waits
    tenant: str = "default"
    adapter: str | None = None
    after: tuple[str, ...] = ()  # ids of requests that must have ended before it is sent
    program: str = ""  # the conversation, tree or agent that it is a call of
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Dice:
    """Random tokens and scaled numbers."""

    source: random.Random
    vocab_size: int
    scale: float
    seed: int = 0  # what `source` was seeded with

    def sized(self, number: float) -> int:
        return max(int(number * self.scale), 1)

    def tokens(self, number: int) -> tuple[int, ...]:
        return tuple(self.source.randrange(FIRST_ID, self.vocab_size) for _ in range(number))

    def between(self, low: int, high: int) -> int:
        """A scaled number of tokens, both ends included."""
        return self.sized(self.source.randint(low, high))

    def text(self, number: int) -> tuple[int, ...]:
        """`number` tokens, drawn at once: for workloads of a million."""
        return tuple(self.source.choices(range(FIRST_ID, self.vocab_size), k=number))
