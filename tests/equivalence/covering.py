"""Few rows in which every two settings meet: a pairwise covering array, made greedily.

covering(factors, is_allowed) -> rows, each a dict of one value per factor
pairs_of(row)                    the pairs of settings that a row tries
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Pair = frozenset[tuple[str, Any]]
TRIES = 60  # random completions of which the one with most new pairs is kept


def covering(
    factors: Mapping[str, Sequence[Any]], is_allowed: Callable[[Row], bool], seed: int = 0
) -> list[Row]:
    """Rows that hold every pair of settings that any allowed row can hold.

    `is_allowed` judges a whole row and, by the settings that are there, one in the making.
    """
    draw, rows = random.Random(seed), []
    wanted = _possible_pairs(factors, is_allowed)
    while wanted:
        first = sorted(wanted, key=_text)[0]
        tries = [_complete(dict(first), factors, is_allowed, draw) for _ in range(TRIES)]
        best = max(tries, key=lambda row: len(wanted & pairs_of(row)))
        wanted -= pairs_of(best)
        rows.append({name: best[name] for name in factors})
    return rows


def pairs_of(row: Row) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


# -- internals ---------------------------------------------------------------


def _possible_pairs(
    factors: Mapping[str, Sequence[Any]], is_allowed: Callable[[Row], bool]
) -> set[Pair]:
    found = set()
    for one, two in itertools.combinations(factors, 2):
        for a, b in itertools.product(factors[one], factors[two]):
            row = {one: a, two: b}
            if is_allowed(row) and _completes(row, list(factors), factors, is_allowed):
                found.add(frozenset(row.items()))
    return found


def _completes(
    row: Row,
    names: list[str],
    factors: Mapping[str, Sequence[Any]],
    is_allowed: Callable[[Row], bool],
) -> bool:
    """Whether some allowed row holds `row`."""
    left = [name for name in names if name not in row]
    if not left:
        return True
    longer = ({**row, left[0]: value} for value in factors[left[0]])
    return any(is_allowed(one) and _completes(one, left, factors, is_allowed) for one in longer)


def _complete(
    row: Row,
    factors: Mapping[str, Sequence[Any]],
    is_allowed: Callable[[Row], bool],
    draw: random.Random,
) -> Row:
    """`row` with a random allowed value for every other factor, in random order."""
    names = [name for name in factors if name not in row]
    draw.shuffle(names)
    for place, name in enumerate(names):
        values = list(factors[name])
        draw.shuffle(values)
        left = names[place + 1 :]
        for value in values:
            longer = {**row, name: value}
            if is_allowed(longer) and _completes(longer, left, factors, is_allowed):
                row = longer
                break
    return row


def _text(pair: Pair) -> str:
    return repr(sorted(pair, key=repr))
