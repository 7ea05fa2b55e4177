"""Stage 2: which candidate is the answer? All policies, on the same candidates.

    await choose(selection) -> Choice         by `config.selector`
    Selection(...)                            candidates, and what may be asked about them

first, random, majority look at all candidates; the others at those that pass the most public tests
(unless `public_filter` is off). majority and public_majority: the largest cluster of equal
behaviour. fast: the quickest on the public tests. generated_tests: most tests of a model's own
passed. judge: a knock-out of programs by a judge who runs nothing. s_star, s_star_plus: a
tournament of clusters by a judge who sees real outputs.

Sources: S*, Algorithm 1 and table 3. Not reproduced: a random member that stands for its cluster
(here the first one); the released code's tournament of all member pairs for every input.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evolute.envs.code.compare import same
from evolute.envs.code.problem import CodeProblem
from evolute.envs.sandbox.values import decode
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.method import Roles, seed_of
from evolute.reasoning.s_star.clusters import Cluster, clusters, largest
from evolute.reasoning.s_star.generate import Candidate
from evolute.reasoning.s_star.inputs import asked, fuzzed, literals, telling
from evolute.reasoning.s_star.judge import Judge, Question, question_of
from evolute.reasoning.s_star.prompts import distinguishing, more_inputs, more_tests, put
from evolute.reasoning.s_star.runs import FAILED, Input, Runs
from evolute.reasoning.s_star.settings import SStarConfig
from evolute.reasoning.s_star.tournament import Duel, log_odds, plan, points, winner
from evolute.types import BudgetSpent, SamplingParams

NUM_FUZZED = 32
NUM_ASKED = 10
UNFILTERED = ("first", "random", "majority")


@dataclass(frozen=True, slots=True)
class Choice:
    """`index` is a place in the selection's candidates."""

    index: int
    reason: str


@dataclass(slots=True)
class Selection:
    """Invariant: candidates is not empty."""

    code: CodeProblem
    candidates: Sequence[Candidate]
    runs: Runs
    roles: Roles
    account: Account
    config: SStarConfig
    counts: dict[str, int] = field(default_factory=dict)  # of what happened, for the report

    @property
    def pool(self) -> list[int]:
        """Places of those that pass the most public tests, in order; all where that is off."""
        everyone = [k for k, one in enumerate(self.candidates) if one.source]
        if not everyone:
            return list(range(len(self.candidates)))
        if not self.config.public_filter or self.config.selector in UNFILTERED:
            return everyone
        most = max(self.candidates[k].passed for k in everyone)
        return [k for k in everyone if self.candidates[k].passed == most]

    def model(self, part: str) -> Metered:
        return Metered(self.roles.of(part), self.account, part)

    def seed(self, *parts: object) -> int:
        return seed_of(self.code.id, self.config.seed, *parts)


async def choose(selection: Selection) -> Choice:
    """Never one that fails a public test while another passes all, unless the filter is off."""
    pool = selection.pool
    if not any(one.source for one in selection.candidates):
        return Choice(pool[0], "all_crashed")
    return await POLICIES[selection.config.selector](selection, pool)


# -- policies ----------------------------------------------------------------


async def _first(selection: Selection, pool: list[int]) -> Choice:
    return Choice(pool[0], _plain_reason(selection, pool[0]))


async def _random(selection: Selection, pool: list[int]) -> Choice:
    place = random.Random(selection.seed("random")).choice(pool)
    return Choice(place, _plain_reason(selection, place))


async def _fast(selection: Selection, pool: list[int]) -> Choice:
    place = min(pool, key=lambda k: (selection.candidates[k].seconds, k))
    return Choice(place, _plain_reason(selection, place))


async def _majority(selection: Selection, pool: list[int]) -> Choice:
    compared = await compare(selection, pool)
    if len(compared.clusters) == 1:
        return Choice(pool[0], compared.reason)
    return Choice(
        pool[largest(compared.clusters).members[0]], "budget" if compared.was_cut else "votes"
    )


async def _generated_tests(selection: Selection, pool: list[int]) -> Choice:
    """A model's own tests, expected values guessed: what the paper argues against."""
    question = more_tests(selection.code, NUM_ASKED)
    try:
        text = await put(selection.model("input_maker"), question, _sampling(selection, "tests"))
    except BudgetSpent:
        return Choice(pool[0], "budget")
    tests = [t for t in literals(text) if isinstance(t, tuple) and len(t) == 2]
    inputs = [a if isinstance(a, tuple) else (a,) for a, _ in tests]
    selection.counts["generated_tests"] = len(tests)
    passed: list[int] = []
    for place in pool:
        reports = await selection.runs.reports(selection.candidates[place].source, inputs)
        passed.append(
            sum(
                report.state == "ok" and same(expected, decode(report.value))
                for report, (_, expected) in zip(reports, tests)
            )
        )
    best = max(range(len(pool)), key=lambda k: (passed[k], -k))
    return Choice(pool[best], "tests" if tests else _plain_reason(selection, pool[best]))


async def _judge(selection: Selection, pool: list[int]) -> Choice:
    """Champion against challenger, each different program once."""
    judge = Judge(selection.model("judge"), selection.code, selection.config)
    sources = {selection.candidates[place].source: place for place in reversed(pool)}
    (champion, *others), was_cut = list(reversed(sources)), False
    for challenger in others:
        question, sign = question_of((), champion, challenger)
        votes = await judge.votes([question])
        was_cut |= votes.was_cut
        if sign * votes.by_question.get(question, 0) < 0:
            champion = challenger
    selection.counts |= {"judge_calls": judge.asked, "judge_unreadable": judge.unreadable}
    reason = "budget" if was_cut else "tournament" if others else "one_cluster"
    return Choice(sources[champion], reason)


async def _s_star(selection: Selection, pool: list[int]) -> Choice:
    """Clusters, duels on inputs that tell them apart, votes; see `tournament`."""
    config = selection.config
    is_plus = config.selector == "s_star_plus"
    compared = await compare(selection, pool)
    found = compared.clusters
    if len(found) == 1:
        return Choice(pool[found[0].members[0]], compared.reason)
    if is_plus and config.judge_accuracy < config.judge_at_least:
        return Choice(pool[largest(found).members[0]], "judge_useless")
    duels = plan(found, compared.inputs, config.inputs if is_plus else 1)
    judge = Judge(selection.model("judge"), selection.code, config)
    votes = await judge.votes([duel.question for duel in duels if duel.question])
    selection.counts |= {"judge_calls": judge.asked, "judge_unreadable": judge.unreadable}
    if is_plus:
        args = (config.judge_accuracy, config.size_prior)
        scores = log_odds(found, duels, votes.by_question, *args)
    else:
        scores = points(found, duels, votes.by_question)
    reason = "budget" if votes.was_cut or compared.was_cut else "tournament"
    if not _says_anything(duels, votes.by_question):
        reason = "budget" if reason == "budget" else "judge_useless"
        return Choice(pool[largest(found).members[0]], reason)
    return Choice(pool[winner(found, scores).members[0]], reason)


POLICIES: dict[str, Callable[[Selection, list[int]], Awaitable[Choice]]] = {
    "first": _first,
    "random": _random,
    "fast": _fast,
    "majority": _majority,
    "public": _first,
    "public_majority": _majority,
    "generated_tests": _generated_tests,
    "judge": _judge,
    "s_star": _s_star,
    "s_star_plus": _s_star,
}


# -- comparing candidates ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """Clusters of the pool's places on `inputs`, which all tell some of them apart."""

    clusters: list[Cluster]
    inputs: list[Input]
    was_cut: bool
    reason: str  # when there is one cluster


async def compare(selection: Selection, pool: list[int]) -> Compared:
    """Fuzzed inputs first; a model is asked when these tell nothing apart."""
    sources = [selection.candidates[place].source for place in pool]
    was_cut = False
    if len(set(sources)) == 1:
        reason = _plain_reason(selection, pool[0]) if len(pool) == 1 else "one_cluster"
        return Compared([Cluster(tuple(range(len(pool))), ())], [], False, reason)
    tried = 0
    if selection.config.fuzz:
        inputs = fuzzed(selection.code, NUM_FUZZED, selection.seed("fuzz"))
        tried += len(inputs)
        found = await _split(selection, sources, inputs)
        if len(found.clusters) > 1:
            return found
    try:
        inputs = await _ask_inputs(selection, sources)
    except BudgetSpent:
        was_cut, inputs = True, []
    found = await _split(selection, sources, inputs)
    tried += len(inputs)
    reason = "budget" if was_cut else found.reason if tried else _plain_reason(selection, pool[0])
    return Compared(found.clusters, found.inputs, was_cut, reason)


async def _split(selection: Selection, sources: list[str], inputs: list[Input]) -> Compared:
    outcomes = {one: await selection.runs.outcomes(one, inputs) for one in dict.fromkeys(sources)}
    rows = [outcomes[source] for source in sources]
    places = telling(rows, len(inputs))
    kept = [[row[place] for place in places] for row in rows]
    selection.counts["telling_inputs"] = len(places)
    has_value = any(outcome != FAILED for row in rows for outcome in row)
    reason = "one_cluster" if has_value or not inputs else "all_crashed"
    return Compared(clusters(kept), [inputs[place] for place in places], False, reason)


async def _ask_inputs(selection: Selection, sources: list[str]) -> list[Input]:
    """In general, then for the first two programs that differ as texts."""
    model = selection.model("input_maker")
    one, other = list(dict.fromkeys(sources))[:2]
    questions = (
        more_inputs(selection.code, NUM_ASKED),
        distinguishing(selection.code, one, other, NUM_ASKED),
    )
    found: list[Input] = []
    for turn, question in enumerate(questions):
        found += asked(await put(model, question, _sampling(selection, "inputs", turn)))
    return found


def _sampling(selection: Selection, *parts: object) -> SamplingParams:
    config = selection.config
    return SamplingParams(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=selection.seed(*parts),
    )


def _plain_reason(selection: Selection, place: int) -> str:
    if not selection.code.public:
        return "no_public_tests"
    return "passed" if selection.candidates[place].passes_all else "none_passed"


def _says_anything(duels: Sequence[Duel], votes: Mapping[Question, int]) -> bool:
    return any(duel.question is None or votes.get(duel.question) for duel in duels)
