"""S* with a scripted model: what each stage gains is the count made by hand."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_code import BODIES, PUBLIC, OwnCalls, is_right, problem, program, roles

from evolute.envs.code.problem import CodeProblem, packed
from evolute.lang.account import Account, Budget
from evolute.reasoning.method import Roles
from evolute.reasoning.s_star import SStar, SStarConfig
from evolute.reasoning.s_star.prompts import repair
from evolute.testing import ScriptedTextBackend
from evolute.types import BackendError, ConfigError, Problem

TABLE = {  # problem -> what its four threads are
    "a": ("RIGHT", "RIGHT", "WRONG", "WRONG"),  # everybody's
    "b": ("WRONG", "RIGHT", "WRONG", "CRASH"),  # public tests find it
    "c": ("FIXED", "WRONG", "WRONG", "WRONG"),  # only after one repair
    "d": ("LATE", "WRONG", "CRASH", "CRASH"),  # only after two
    "e": ("TRAP", "RIGHT", "RIGHT", "WRONG"),  # the largest cluster of those that pass
    "f": ("TRAP", "TWIN", "RIGHT", "WRONG"),  # only a judge finds it
    "g": ("TRAP", "TWIN", "FIXED", "WRONG"),  # repaired, then judged
    "h": ("TRAP", "TRAP", "TWIN", "WRONG"),  # nobody's
    "i": ("WRONG", "WRONG", "CRASH", "WRONG"),  # nothing passes
}
# By hand. first: a. random and so on are not counted. Coverage at first: a b e f; with one round
# c and g too; with two d too. public takes the first that passes: a b c d. public_majority: e too.
# s_star with a right judge: f and g too. majority without filter or repair: a alone (in b three
# wrong ones crash or agree; in e three clusters, right is the largest).
BY_HAND = {
    ("first", 0): "a",
    ("majority", 0): "ae",
    ("public", 0): "ab",
    ("public", 1): "abc",
    ("public", 2): "abcd",
    ("public_majority", 2): "abcde",
    ("s_star", 0): "abef",
    ("s_star", 1): "abcefg",
    ("s_star", 2): "abcdefg",
    ("s_star_plus", 2): "abcdefg",
    ("generated_tests", 2): "abcdefg",
}
REASONS = {
    *("passed", "none_passed", "no_public_tests", "votes", "tests", "tournament"),
    *("one_cluster", "judge_useless", "all_crashed", "budget"),
}


def solve(table, name, account=None, judge="right", public=None, **config):
    config = SStarConfig(**{"samples": len(table[name]), **config})
    method = SStar(roles(table, judge), OwnCalls, config)
    one = problem(name) if public is None else problem(name, public)
    return asyncio.run(method.solve(one, account or Account()))


@pytest.mark.parametrize(("selector", "rounds"), BY_HAND)
def test_each_stage_gains_what_was_counted_by_hand(selector, rounds):
    solutions = {name: solve(TABLE, name, selector=selector, rounds=rounds) for name in TABLE}
    right = "".join(name for name, one in solutions.items() if is_right(one))
    assert right == BY_HAND[selector, rounds]
    assert {one.reason for one in solutions.values()} <= REASONS


@pytest.mark.parametrize(("rounds", "covered"), [(0, "abef"), (1, "abcefg"), (2, "abcdefg")])
def test_coverage_grows_with_repairs_alone(rounds, covered):
    found = ""
    for name in TABLE:
        texts = solve(TABLE, name, rounds=rounds).details["candidates"]
        found += name if any(program("RIGHT") in text for text in texts) else ""
    assert found == covered


@pytest.mark.parametrize("selector", ["s_star", "s_star_plus", "public_majority", "random"])
def test_two_runs_are_equal_to_the_bit(selector, tmp_path):
    def run(**config):
        found = [solve(TABLE, name, selector=selector, **config) for name in TABLE]
        return json.dumps([(one.text, one.reason, one.details) for one in found])

    first = run()
    assert run() == first
    path = str(tmp_path / "candidates.jsonl")
    assert run(records=path) == first


def test_a_replay_samples_nothing_and_chooses_alike(tmp_path):
    path = str(tmp_path / "candidates.jsonl")
    first = [solve(TABLE, name, records=path, selector="s_star") for name in TABLE]
    account = Account()
    again = [solve(TABLE, name, account, records=path, selector="s_star") for name in TABLE]
    assert [one.text for one in again] == [one.text for one in first]
    assert "solver" not in account.by_role and "debugger" not in account.by_role
    for selector in ("public", "public_majority"):
        for name in TABLE:
            replayed = solve(TABLE, name, records=path, selector=selector)
            fresh = solve(TABLE, name, selector=selector)
            assert (replayed.text, replayed.reason) == (fresh.text, fresh.reason)


def test_a_record_of_other_settings_is_not_taken(tmp_path):
    path = tmp_path / "candidates.jsonl"
    solve(TABLE, "d", records=str(path), rounds=0)
    assert is_right(solve(TABLE, "d", records=str(path), rounds=2))
    path.write_bytes(path.read_bytes()[:-20])  # a crash in the middle of a line
    assert is_right(solve(TABLE, "d", records=str(path), rounds=2))
    assert is_right(solve(TABLE, "d", records=str(path), rounds=2))
    assert len(path.read_text().splitlines()) == 3


labels = st.sampled_from([*BODIES, "FIXED", "LATE"])
FILTERED = ("fast", "public", "public_majority", "generated_tests", "judge", "s_star")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(labels, min_size=1, max_size=6),
    st.sampled_from([*FILTERED, "s_star_plus", "first", "random", "majority"]),
    st.sampled_from(["right", "wrong", "A", "B", "tie", "noise"]),
    st.integers(0, 2),
    st.none() | st.integers(0, 14),
    st.booleans(),
)
def test_never_an_answer_that_fails_while_one_passes_all(
    row, selector, judge, rounds, calls, has_public
):
    account = Account(Budget(calls=calls))
    solution = solve(
        {"p": row},
        "p",
        account,
        judge,
        public=None if has_public else (),
        selector=selector,
        rounds=rounds,
    )
    assert solution.reason in REASONS
    assert account.spent.calls <= (calls if calls is not None else 1000)
    texts = solution.details["candidates"]
    assert solution.text in (*texts, "") and bool(texts) == bool(solution.text)
    passing = {program(one) for one in ("RIGHT", "TRAP", "TWIN")}
    if has_public and selector not in ("first", "random", "majority"):
        some_pass = any(one in text for text in texts for one in passing)
        assert not some_pass or any(one in solution.text for one in passing)
    assert solution.details.get("passing", 0) == sum(
        any(one in text for one in passing) or not has_public for text in texts
    )


@pytest.mark.parametrize(
    ("row", "judge", "config", "reason"),
    [
        (("RIGHT",), "right", {}, "passed"),
        (("TRAP", "TRAP"), "right", {}, "one_cluster"),
        (("TRAP", "TWIN"), "right", {}, "one_cluster"),
        (("TRAP", "RIGHT"), "right", {}, "tournament"),
        (("TRAP", "RIGHT"), "noise", {}, "judge_useless"),
        (("TRAP", "RIGHT"), "A", {}, "judge_useless"),  # it depends on the order
        (("TRAP", "RIGHT"), "right", {"selector": "s_star_plus", "judge_accuracy": 0.5},
         "judge_useless"),
        (("CRASH", "CRASH"), "right", {}, "one_cluster"),
    ],
)  # fmt: skip
def test_reasons(row, judge, config, reason):
    assert solve({"p": row}, "p", judge=judge, **config).reason == reason


def test_no_public_tests_is_said_or_judged():
    assert solve({"p": ("RIGHT",)}, "p", public=()).reason == "no_public_tests"
    solution = solve({"p": ("TRAP", "RIGHT")}, "p", public=())  # inputs are asked for
    assert is_right(solution) and solution.reason == "tournament"


def test_a_spent_budget_answers_with_the_best_so_far():
    account = Account(Budget(calls=4))  # four programs, nothing for the judge
    solution = solve(TABLE, "e", account, rounds=0)
    assert solution.reason == "budget" and is_right(solution) and account.spent.calls == 4
    assert solve(TABLE, "e", Account(Budget(calls=0))).text == ""


def test_a_judge_is_asked_once_for_equal_questions():
    row = ("TRAP", "TWIN", "RIGHT", "TRAP", "TWIN", "RIGHT")
    account = Account()
    solution = solve({"p": row}, "p", account, selector="s_star")
    assert is_right(solution) and solution.details["judge_calls"] == 2  # one question, both orders
    assert account.by_role["judge"].calls == 2
    once = solve({"p": row}, "p", selector="s_star", judge_swap=False)
    assert is_right(once) and once.details["judge_calls"] == 1


def test_a_model_that_fails_ends_the_problem():
    def broken(request):
        raise BackendError("gone")

    from evolute.reasoning.method import Roles
    from evolute.testing import ScriptedTextBackend

    method = SStar(Roles(ScriptedTextBackend(broken)), OwnCalls, SStarConfig(samples=3))
    with pytest.raises(BackendError, match="gone"):
        asyncio.run(method.solve(problem("p"), Account()))


def test_other_problems_are_refused():
    method = SStar(roles({}), OwnCalls, SStarConfig())
    other = Problem("1+1", ({"role": "user", "content": "1+1"},), "2")
    with pytest.raises(ConfigError, match="no programming problem"):
        asyncio.run(method.solve(other, Account()))


STARTER = 'def f(x):\n    """Square x."""\n'
TALKATIVE = " return x * x\n```\n\nIt squares x:\n```python\nprint(f(2))\n```"


def test_a_body_that_was_begun_is_gone_on_with_until_the_talk_begins():
    code = CodeProblem("p", STARTER, "function", "f", STARTER, PUBLIC)
    asked = Problem("p", ({"role": "user", "content": STARTER},), "", {"code": packed(code)})
    backend = ScriptedTextBackend(lambda request: TALKATIVE)
    config = SStarConfig(samples=1, rounds=0, style="body")
    whole = STARTER + "    return x * x\n"
    method = SStar(Roles(backend), lambda: OwnCalls(whole), config)
    solution = asyncio.run(method.solve(asked, Account()))
    assert backend.requests[0].prompt.text == STARTER + "   "
    assert whole in solution.text and "print" not in solution.text
    assert solution.reason == "passed"


def test_a_repair_begins_the_body_too():
    code = CodeProblem("p", STARTER, "function", "f", STARTER, PUBLIC)
    for style, end in (("complete", STARTER), ("body", STARTER + "   ")):
        assert repair(code, [("x", ("input 1: wrong",))], style).text.endswith(end)
