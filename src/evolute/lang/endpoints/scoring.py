"""How are many continuations of one prefix scored at the cost of one prefix?

    await score_each(prefix, continuations, score_one) -> (log-probabilities of each, what it cost)

Equal ones are asked for once. The first goes alone, so that the others find the prefix computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from evolute.lang.account import Spent
from evolute.types import NotSupported

Ids = tuple[int, ...]
Scored = tuple[tuple[float, ...], Spent]


async def score_each(
    prefix: Sequence[int],
    continuations: Sequence[Sequence[int]],
    score_one: Callable[[Ids, Ids], Awaitable[Scored]],
) -> tuple[list[tuple[float, ...]], Spent]:
    """Raises NotSupported for an empty prefix."""
    if not prefix:
        raise NotSupported("nothing predicts the first token of a text; score after a prefix.")
    distinct = list(dict.fromkeys(tuple(one) for one in continuations if one))
    found: dict[Ids, tuple[float, ...]] = {(): ()}
    spent = Spent()
    for some in (distinct[:1], distinct[1:]):
        scored = await asyncio.gather(*(score_one(tuple(prefix), one) for one in some))
        for one, (logprobs, cost) in zip(some, scored):
            found[one], spent = logprobs, spent + cost
    return [found[tuple(one)] for one in continuations], spent
