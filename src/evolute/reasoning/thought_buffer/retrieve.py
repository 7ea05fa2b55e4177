"""Which templates fit a problem? Exact cosine over all: a few thousand rows are one product.

Index                        ids, unit vectors, categories and stats of live templates
nearest(query, index)        best first, by similarity + weight x expected success
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.reasoning.thought_buffer.template import Stats

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """A template near a query. `similarity` is the cosine, `score` orders."""

    id: str
    similarity: float
    score: float
    stats: Stats


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Row k of `vectors` (n, dimension; unit rows) belongs to `ids[k]`."""

    ids: Sequence[str]
    vectors: Vector
    categories: Sequence[str]
    stats: Sequence[Stats]


def nearest(
    query: Vector, index: Index, *, category: str | None = None, weight: float = 0.2, limit: int = 8
) -> list[Match]:
    """The `limit` best for a unit vector (dimension,). With `category` others are left out. Equal
    scores keep the index's order, so the answer is a function of what is stored."""
    if not index.ids:
        return []
    cosines = index.vectors @ query
    expected = np.array([s.expectation for s in index.stats], np.float32)
    scores = cosines + np.float32(weight) * expected
    order = [int(k) for k in np.argsort(-scores, kind="stable")]
    kept = [k for k in order if category is None or index.categories[k] == category][:limit]
    return [Match(index.ids[k], float(cosines[k]), float(scores[k]), index.stats[k]) for k in kept]
