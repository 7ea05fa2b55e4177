"""Which candidates behave alike?

clusters(outcomes) -> list[Cluster]      in the order of their first members
largest(clusters) -> Cluster             the first of the largest
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """Candidates with equal outcomes on all compared inputs, by their places."""

    members: tuple[int, ...]
    outcomes: tuple[str, ...]


def clusters(outcomes: Sequence[Sequence[str]]) -> list[Cluster]:
    """A partition of the rows."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(outcomes):
        found.setdefault(tuple(row), []).append(place)
    return [Cluster(tuple(members), row) for row, members in found.items()]


def largest(found: Sequence[Cluster]) -> Cluster:
    return max(found, key=lambda one: (len(one.members), -one.members[0]))
