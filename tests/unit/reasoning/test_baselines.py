"""Baselines on scripted models: what they send, what they answer, what they do without budget."""

import asyncio

import pytest
from own_programs import OwnPrograms

from evolute.lang.account import Account, Budget
from evolute.reasoning.baselines import (
    ChainOfThought,
    Direct,
    Majority,
    Pal,
    TreeConfig,
    TreeOfThoughts,
    make_cot,
    make_direct,
    make_majority,
    make_pal,
    make_tree_of_thoughts,
)
from evolute.reasoning.baselines.votes import by_final_answer, most_votes
from evolute.reasoning.method import Method, Roles
from evolute.testing import ScriptedTextBackend
from evolute.types import ConfigError, Problem

PROBLEM = Problem("sum", ({"role": "user", "content": "What is 3 + 4?"},), "7")


def solve(method, budget=None, problem=PROBLEM):
    account = Account(budget)
    return asyncio.run(method.solve(problem, account)), account


def said(request):
    return request.prompt.messages[-1]["content"]


def test_direct_sends_the_question_as_it_is():
    model = ScriptedTextBackend(["7"])
    solution, account = solve(Direct(Roles(model)))
    assert (solution.text, solution.reason) == ("7", "answered")
    assert said(model.requests[0]) == "What is 3 + 4?"
    assert account.spent.calls == 1 and model.requests[0].sampling.temperature == 0


def test_thinking_is_cut_off_the_answer():
    model = ScriptedTextBackend(["3 and 4 make 7.\nAnswer: 7"])
    assert solve(ChainOfThought(Roles(model)))[0].text == "7"
    assert "step by step" in said(model.requests[0])


def test_the_majority_wins_and_the_first_of_equals():
    votes = ["Answer: 8", "Answer: 7", "So 7", "Answer: 9"]
    solution, account = solve(
        Majority(Roles(ScriptedTextBackend(votes)), samples=4, temperature=0.7, key=by_final_answer)
    )
    assert (solution.text, solution.reason) == ("Answer: 7", "majority")
    assert account.spent.calls == 4
    assert most_votes(["b", "a", "a", "b", ""]) == "b" and most_votes(["", ""]) == ""


def test_samples_have_seeds_of_their_own_and_the_same_in_each_run():
    seeds = []
    for _ in range(2):
        model = ScriptedTextBackend(["7"])
        solve(Majority(Roles(model), samples=5, temperature=1.0, key=by_final_answer))
        seeds.append(sorted(r.sampling.seed for r in model.requests))
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 5


def test_a_budget_bounds_the_vote():
    method = Majority(
        Roles(ScriptedTextBackend(["7"])), samples=9, temperature=1, key=by_final_answer
    )
    solution, account = solve(method, Budget(calls=3))
    assert account.spent.calls == 3 and solution.text == "7"
    assert solve(method, Budget(calls=0))[0].reason == "budget"


def test_a_program_is_run_and_repaired():
    model = ScriptedTextBackend(["```python\nprint(1/0)\n```", "```python\nprint(3 + 4)\n```"])
    sandbox = OwnPrograms()
    solution, _ = solve(Pal(Roles(model), lambda: sandbox))
    assert (solution.text, solution.reason) == ("7", "ran")
    assert len(sandbox.scripts) == 2 and "ZeroDivisionError" in said(model.requests[1])


def test_without_a_program_the_text_is_the_answer():
    solution, account = solve(Pal(Roles(ScriptedTextBackend(["seven it is"])), OwnPrograms))
    assert (solution.text, solution.reason) == ("seven it is", "no_program")
    assert account.spent.calls == 3
    assert (
        solve(Pal(Roles(ScriptedTextBackend(["x"])), OwnPrograms), Budget(0))[0].reason == "budget"
    )


def tree_script(request):
    text = said(request)
    if "Propose" in text:
        return "add them\n2. subtract them\n- add them"
    if "one word" in text:
        return "impossible" if "subtract" in text else "sure"
    return f"Answer: {7 if 'add' in text and 'subtract' not in text else -1}"


def test_the_tree_keeps_what_is_valued():
    model = ScriptedTextBackend(tree_script)
    config = TreeConfig(breadth=1, depth=2, votes=2)
    solution, account = solve(TreeOfThoughts(Roles(model), config))
    assert solution.text == "7" and solution.details["steps"] == ["add them", "add them"]
    assert account.spent.calls == 2 * (1 + 2 * 2) + 1  # per depth: one proposal, two steps x votes


def test_a_judge_of_its_own_is_asked():
    solver, judge = ScriptedTextBackend(tree_script), ScriptedTextBackend(tree_script)
    _, account = solve(TreeOfThoughts(Roles(solver, {"judge": judge}), TreeConfig(depth=1)))
    assert len(judge.requests) == 6 and account.by_role["judge"].calls == 6


def test_a_tree_without_budget_answers_with_its_steps():
    method = TreeOfThoughts(Roles(ScriptedTextBackend(tree_script)))
    assert solve(method, Budget(calls=0))[0].reason == "budget"
    assert solve(method, Budget(calls=9))[0].text in ("add them", "7")


@pytest.mark.parametrize(
    "make", [make_direct, make_cot, make_majority, make_pal, make_tree_of_thoughts]
)
def test_factories_check_their_settings(make):
    roles = Roles(ScriptedTextBackend())
    assert isinstance(make(roles, OwnPrograms, {}), Method)
    with pytest.raises(ConfigError, match="no setting 'sample'"):
        make(roles, OwnPrograms, {"sample": 3})
