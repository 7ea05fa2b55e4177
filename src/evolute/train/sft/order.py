"""Which example comes next? A pure function of the step, so that a run can go on at any.

    examples_of(step, batch_size, sizes, mix, seed, total) -> list[int]
    num_examples(sizes, epochs)                            how many a run sees

Several files are one stream. A pass over it has as many examples as the files have rows; without a
`mix` each row is seen once a pass, with one the files' shares are those of `mix` to the example,
and each file is walked in an order of its own, round after round. Numbers count the rows of all
files, in their order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from evolute.types import ConfigError


def examples_of(
    step: int, batch_size: int, sizes: Sequence[int], mix: Sequence[float], seed: int, total: int
) -> list[int]:
    """Numbers of the examples of one step, from 0; the last step has what is left of `total`."""
    first = step * batch_size
    return [
        _example(position, tuple(sizes), tuple(mix), seed)
        for position in range(first, min(first + batch_size, total))
    ]


def num_examples(sizes: Sequence[int], epochs: int) -> int:
    return sum(sizes) * epochs


def quotas(sizes: Sequence[int], mix: Sequence[float]) -> tuple[int, ...]:
    """Examples of each file in one pass; they add up to the number of rows (largest remainders).
    Raises ConfigError when `mix` is no list of shares, or a share would be none."""
    if not mix:
        return tuple(sizes)
    if len(mix) != len(sizes) or any(not 0 < share < float("inf") for share in mix):
        raise ConfigError(
            f"mix has {len(mix)} shares for {len(sizes)} files; give one above 0 for each file."
        )
    wanted = [sum(sizes) * share / sum(mix) for share in mix]
    counts = [int(share) for share in wanted]
    by_rest = sorted(range(len(mix)), key=lambda i: counts[i] - wanted[i])
    for i in by_rest[: sum(sizes) - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        raise ConfigError(f"mix {list(mix)} leaves a file without any example; raise its share.")
    return tuple(counts)


# -- internals ---------------------------------------------------------------


def _example(position: int, sizes: tuple[int, ...], mix: tuple[float, ...], seed: int) -> int:
    a_pass, place = divmod(position, sum(sizes))
    source, number = _pass(quotas(sizes, mix), seed, a_pass)[place]
    a_round, at = divmod(number, sizes[source])
    return (
        list(accumulate(sizes, initial=0))[source] + _walk(sizes[source], seed, source, a_round)[at]
    )


@lru_cache(8)
def _pass(counts: tuple[int, ...], seed: int, a_pass: int) -> list[tuple[int, int]]:
    """(file, how many of it came before) at each place of a pass."""
    sources = [source for source, count in enumerate(counts) for _ in range(count)]
    random.Random(f"{seed}/pass/{a_pass}").shuffle(sources)
    seen = [a_pass * count for count in counts]
    found = []
    for source in sources:
        found.append((source, seen[source]))
        seen[source] += 1
    return found


@lru_cache(64)
def _walk(size: int, seed: int, source: int, a_round: int) -> list[int]:
    order = list(range(size))
    random.Random(f"{seed}/{source}/{a_round}").shuffle(order)
    return order
