"""May a template be added?

    decide(candidate, matches, evidence) -> Decision      pure

The paper adds when nothing like it is there. We add the other half: only after a verified success,
never what answers all problems alike, and a template that has proved bad does not block a better
one (with one threshold for use and novelty, a bad template just above it would stay for ever).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolute.reasoning.thought_buffer.retrieve import Match
from evolute.reasoning.thought_buffer.template import Stats, ThoughtTemplate

BAD_AFTER, BAD_BELOW = 2, 0.4  # a template this often used with less expected success is bad
RETIRED_AFTER, RETIRED_BELOW = 10, 0.3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the solution that a candidate was made from."""

    is_right: bool | None  # None: nobody could tell
    reproduces: bool = True  # the template, filled anew, gives the same answer


@dataclass(frozen=True, slots=True)
class Decision:
    """`why`: first, new, better; or not_verified, failed, not_reproduced, constant, known."""

    keep: bool
    why: str


def decide(
    candidate: ThoughtTemplate,
    matches: Sequence[Match],
    evidence: Evidence,
    *,
    new_below: float,
) -> Decision:
    """`matches` are the live templates nearest to the candidate's description, nearest first or
    not. Invariant: without a verified success nothing is kept."""
    if evidence.is_right is not True:
        return Decision(False, "not_verified" if evidence.is_right is None else "failed")
    if candidate.is_constant:
        return Decision(False, "constant")
    if not evidence.reproduces:
        return Decision(False, "not_reproduced")
    if any(match.id == candidate.id for match in matches):
        return Decision(False, "known")
    if not matches:
        return Decision(True, "first")
    alike = [match for match in matches if match.similarity >= new_below]
    if not alike:
        return Decision(True, "new")
    if all(is_bad(match.stats) for match in alike):
        return Decision(True, "better")
    return Decision(False, "known")


def is_bad(stats: Stats) -> bool:
    return stats.uses >= BAD_AFTER and stats.expectation < BAD_BELOW


def should_retire(stats: Stats) -> bool:
    """Whether a template has failed often enough to be offered no more."""
    return stats.uses >= RETIRED_AFTER and stats.expectation < RETIRED_BELOW
