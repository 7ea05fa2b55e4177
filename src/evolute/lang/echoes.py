"""Which log-probabilities have choices on an endpoint that completes texts and tells no tokens?

    await score_texts(backend, prompt, choices) -> [Told]      after the prompt
    await score_alone(backend, choices) -> [log-probabilities] with nothing before

Such an endpoint can echo: it reads prompt and choice and tells the log-probability of each of its
tokens with the place of their first characters. The prompt is echoed alone, too; the tokens behind
what both have in common are the choice's, so one that merges with the prompt counts as the model
sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evolute.lang.account import Spent
from evolute.types import BackendError, NotSupported


@dataclass(frozen=True, slots=True)
class Echo:
    """The tokens of a text: their characters, and their log-probabilities, None for the first."""

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    spent: Spent


class Echoing(Protocol):
    """A text backend with the capability `echoes`."""

    async def echo(self, text: str) -> Echo: ...


@dataclass(frozen=True, slots=True)
class Told:
    """Of one choice: its own tokens, and the place of the first of them."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    offset: int


async def score_texts(backend: Echoing, prompt: str, choices: Sequence[str]) -> list[Told]:
    """The prompt goes first, so that a prefix cache has it for the others."""
    if not prompt:
        raise NotSupported("select needs a prompt before it: nothing predicts the first token.")
    alone = await backend.echo(prompt)
    whole = await asyncio.gather(*(backend.echo(prompt + choice) for choice in choices))
    return [_behind(alone, one) for one in whole]


async def score_alone(backend: Echoing, choices: Sequence[str]) -> list[tuple[float, ...]]:
    """The first token, which nothing predicts, counts 0."""
    echoes = await asyncio.gather(*map(backend.echo, choices))
    return [tuple(value or 0.0 for value in one.logprobs) for one in echoes]


# -- internals ---------------------------------------------------------------


def _behind(alone: Echo, whole: Echo) -> Told:
    """What `whole` has beyond the tokens of `alone`; at least its first stays the prompt's."""
    pairs = zip(alone.tokens, whole.tokens)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(alone.tokens))
    same = max(same, 1)
    found = whole.logprobs[same:]
    if not found or any(value is None for value in found):
        raise BackendError("the endpoint echoed no log-probabilities of a choice.")
    values = tuple(float(value) for value in found if value is not None)
    return Told(whole.tokens[same:], values, same)
