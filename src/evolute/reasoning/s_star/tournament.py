"""Which cluster wins, when a judge votes on pairs of them?

    plan(clusters, inputs, per_pair) -> list[Duel]      the questions, pure
    points, log_odds(clusters, duels, votes, ...)       what each cluster earned, pure
    winner(clusters, scores) -> Cluster

A cluster that gives no value where the other gives one loses that input without a question.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolute.reasoning.s_star.clusters import Cluster
from evolute.reasoning.s_star.judge import Question, question_of
from evolute.reasoning.s_star.runs import FAILED, Input


@dataclass(frozen=True, slots=True)
class Duel:
    """Two clusters on one input. Without a question the vote is known."""

    one: int
    other: int
    question: Question | None
    sign: int  # times the question's vote, for `one`; without a question the vote itself


def plan(found: Sequence[Cluster], inputs: Sequence[Input], per_pair: int) -> list[Duel]:
    """At most `per_pair` duels a pair, on the inputs that come first."""
    duels: list[Duel] = []
    for one, other in itertools.combinations(range(len(found)), 2):
        sides = list(zip(found[one].outcomes, found[other].outcomes))
        places = [place for place, (a, b) in enumerate(sides) if a != b][:per_pair]
        for place in places:
            a, b = sides[place]
            if FAILED in (a, b):
                duels.append(Duel(one, other, None, 1 if b == FAILED else -1))
            else:
                duels.append(Duel(one, other, *question_of(inputs[place], a, b)))
    return duels


def points(
    found: Sequence[Cluster], duels: Sequence[Duel], votes: Mapping[Question, int]
) -> list[float]:
    """A point a pair for who wins more of its inputs, half a point each for a draw (the paper's
    rule). A pair of which nothing is known gives none."""
    totals: dict[tuple[int, int], list[int]] = {}
    for duel in duels:
        vote = _vote(duel, votes)
        if vote is not None:
            totals.setdefault((duel.one, duel.other), []).append(vote)
    scores = [0.0] * len(found)
    for (one, other), given in totals.items():
        total = sum(given)
        scores[one] += 1.0 if total > 0 else 0.5 if total == 0 else 0.0
        scores[other] += 1.0 if total < 0 else 0.5 if total == 0 else 0.0
    return scores


def log_odds(
    found: Sequence[Cluster],
    duels: Sequence[Duel],
    votes: Mapping[Question, int],
    accuracy: float,
    size_prior: float,
) -> list[float]:
    """Evidence for each cluster: its votes, weighed by the judge's accuracy, and a prior of its
    log-size."""
    weight = math.log(accuracy / (1 - accuracy))
    scores = [size_prior * math.log(len(one.members)) for one in found]
    for duel in duels:
        vote = _vote(duel, votes) or 0
        scores[duel.one] += weight * vote
        scores[duel.other] -= weight * vote
    return scores


def winner(found: Sequence[Cluster], scores: Sequence[float]) -> Cluster:
    """The greatest score; the larger, then the earlier one where scores are equal."""
    best = max(
        range(len(found)),
        key=lambda k: (round(scores[k], 9), len(found[k].members), -found[k].members[0]),
    )
    return found[best]


# -- internals ---------------------------------------------------------------


def _vote(duel: Duel, votes: Mapping[Question, int]) -> int | None:
    if duel.question is None:
        return duel.sign
    vote = votes.get(duel.question)
    return None if vote is None else duel.sign * vote
