"""A method is graded by the task's world, charged to an account, and its failures are contained."""

import asyncio

import pytest

from evolute.envs import make_task
from evolute.lang.account import Budget
from evolute.lang.backend import Prompt, TextRequest
from evolute.lang.metered import Metered
from evolute.reasoning.evaluate import evaluate_method, grade
from evolute.reasoning.method import Solution
from evolute.testing import ScriptedTextBackend
from evolute.types import BackendError, BudgetSpent, RequestError, RewardError, SamplingParams

TASK = make_task("addition-1")


class Scripted:
    """Asks `calls` times, then answers by a function of the problem."""

    name = "scripted"

    def __init__(self, answer, calls=1):
        self.answer, self.calls = answer, calls
        self.backend = ScriptedTextBackend(["7"])

    async def solve(self, problem, account):
        solver = Metered(self.backend, account, "solver")
        for _ in range(self.calls):
            try:
                await solver.generate(TextRequest(Prompt.of("q"), SamplingParams(max_new_tokens=4)))
            except BudgetSpent:
                return Solution(problem.gold, "budget")
        found = self.answer(problem)
        if isinstance(found, Exception):
            raise found
        return found


def run(method, **options):
    return asyncio.run(evaluate_method(TASK, method, **{"count": 20, **options}))


def by_parity(problem):
    """Right on even sums."""
    gold = int(problem.gold)
    return Solution(str(gold if gold % 2 == 0 else gold + 1), "answered")


def test_accuracy_cost_and_reasons_are_counted():
    report = run(Scripted(by_parity, calls=3))
    even = sum(int(p.gold) % 2 == 0 for p in TASK.problems("heldout", 20))
    assert report.accuracy.mean == even / 20 and report.num_failed == 0
    assert report.accuracy.low < even / 20 < report.accuracy.high
    assert report.spent.calls == report.by_role["solver"].calls == 60
    assert report.reasons == {"answered": 20} and report.coverage is None
    assert [g.problem.id for g in report.graded] == [p.id for p in TASK.problems("heldout", 20)]


def test_a_budget_is_each_problems_own():
    report = run(Scripted(by_parity, calls=3), budget=Budget(calls=2))
    assert report.reasons == {"budget": 20} and report.spent.calls == 40
    assert all(one.spent.calls == 2 for one in report.graded)
    assert report.accuracy.mean == 1.0  # the method answered with what it had


def test_a_model_that_fails_ends_its_problem_alone_and_a_refusal_ends_all():
    def some(problem):
        return BackendError("gone") if int(problem.gold) % 2 else Solution(problem.gold, "ok")

    report = run(Scripted(some))
    odd = sum(int(p.gold) % 2 for p in TASK.problems("heldout", 20))
    assert report.num_failed == odd and report.accuracy.mean == 1.0
    assert report.reasons == {"BackendError": odd, "ok": 20 - odd}
    with pytest.raises(RequestError, match="no such setting"):
        run(Scripted(lambda problem: RequestError("no such setting")))


def test_candidates_are_graded_and_only_the_oracle_may_take_the_best():
    def wrong_first(problem):
        candidates = ["no", problem.gold] if int(problem.gold) % 2 else ["no"]
        return Solution("no", "first", {"candidates": candidates})

    odd = sum(int(p.gold) % 2 for p in TASK.problems("heldout", 20))
    report = run(Scripted(wrong_first))
    assert report.accuracy.mean == 0 and report.coverage.mean == odd / 20
    oracle = Scripted(wrong_first)
    oracle.name = "oracle"
    assert run(oracle).accuracy.mean == odd / 20


def test_a_world_that_breaks_is_a_failure_not_a_wrong_answer(monkeypatch):
    from evolute.envs import arithmetic

    def broken(action, gold):
        raise RewardError("the verifier fell over")

    monkeypatch.setattr(arithmetic, "grade_number", broken)
    report = run(Scripted(by_parity))
    assert report.num_failed == 20 and report.reasons == {"answered": 20}
    assert {one.failure for one in report.graded} == {"RewardError"}


def test_grading_is_the_worlds():
    (problem,) = TASK.problems("heldout", 1)
    assert asyncio.run(grade(TASK, problem, problem.gold))
    assert not asyncio.run(grade(TASK, problem, "no idea"))
