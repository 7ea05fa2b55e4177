"""The bench of S*: its stand-in, and figures that fit together and come out alike."""

import ast
import asyncio

import pytest

from evolute.bench.programming.equal import RIVALS, at_equal_budget
from evolute.bench.programming.policies import Remembered, Suite
from evolute.bench.programming.pupil import PHRASES, Sizes, cases, lessons, pupil
from evolute.bench.programming.s_star import compared
from evolute.bench.programming.stand_in import Skill, StandIn
from evolute.envs import make_task
from evolute.envs.code.list_operations import OPERATIONS, apply
from evolute.envs.sandbox import Unprotected
from evolute.envs.sandbox.contract import SandboxLimits, Script
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.method import Roles
from evolute.reasoning.s_star import SStarConfig

POLICIES = ("first", "public", "public_majority", "s_star")


def figures(skill):
    sandbox = Unprotected()
    task = make_task("list-programs?ops=2-3&errors=systematic", lambda: sandbox)
    problems = task.problems("heldout", 2)
    roles = Roles(StandIn(problems, skill))
    config = SStarConfig(samples=3, rounds=1)
    return asyncio.run(compared("s", task, problems, roles, config, sandbox, POLICIES))


def test_a_perfect_stand_in_is_right_and_a_bad_one_wrong():
    found = figures(Skill(writes=1.0))
    assert all(found[f"s/{policy}/accuracy"] == 1 for policy in POLICIES)
    found = figures(Skill(writes=0.0, repairs=0.0, shared=1.0))
    assert found["s/coverage"] == 0 and found["s/public/accuracy"] == 0


def test_figures_fit_together_and_come_out_alike():
    found = figures(Skill(writes=0.4, judges=1.0, shared=0.5))
    assert figures(Skill(writes=0.4, judges=1.0, shared=0.5)) == found
    for policy in POLICIES:
        assert found[f"s/{policy}/accuracy"] <= found["s/coverage"]
    assert found["s/coverage_at_first"] <= found["s/coverage"]
    assert found["s/s_star/accuracy"] >= found["s/public/accuracy"]
    assert found["s/first/calls"] > found["s/public/calls"] == 0  # only the first policy samples


def test_rivals_get_at_least_the_budget_of_s_star():
    sandbox = Unprotected()
    task = make_task("list-programs?ops=2-3&errors=systematic", lambda: sandbox)
    problems = task.problems("heldout", 2)
    roles = Roles(StandIn(problems, Skill(writes=0.3, shared=0.5, judges=1.0)))
    config = SStarConfig(samples=3, rounds=1)
    suite = Suite("s", task, problems, roles, config, sandbox)
    found = asyncio.run(at_equal_budget(suite))
    target = found["s/equal/s_star/tokens"]
    alone = asyncio.run(Suite("s", task, problems, roles, config, sandbox).outcome())
    assert target == alone.tokens() and found["s/equal/s_star/accuracy"] == alone.accuracy
    for name, (_, is_mended) in RIVALS.items():
        title = f"s/equal/{name}"
        assert found[f"{title}/tokens"] >= target > 0
        assert found[f"{title}/samples"] >= 3 + (not is_mended)
        gain = found["s/equal/s_star/accuracy"] - found[f"{title}/accuracy"]
        assert abs(found[f"{title}/gain"] - gain) < 1e-9
        assert found[f"{title}/gain_low"] <= gain <= found[f"{title}/gain_high"]


def lists(count=12):
    task = make_task("list-programs?ops=1-1&errors=systematic&public=1", Unprotected)
    return task.problems("train", count)


def test_a_pupil_is_taught_what_is_right():
    problems = lists()
    rows = lessons(problems, Sizes(12, 12, 40), seed=3)
    assert rows == lessons(problems, Sizes(12, 12, 40), seed=3) and len(rows) == 64
    by_statement = {problem.id: problem for problem in problems}
    tokenizer = student(0, phrases=PHRASES).tokenizer
    kinds, right = {"value": 0, "mended": 0, "written": 0}, 0
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        for text in (question, answer):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        problem = by_statement[question.partition("\n\n")[0]]
        if "What does a right program give" in question:
            kinds["value"] += 1
            xs = ast.literal_eval(question.partition("for the input ")[2].partition("?")[0])
            names = problem.extras["stand_in"]["operations"]
            assert answer == f"`{apply([OPERATIONS[n].expression for n in names], xs)}`"
            continue
        kinds["mended" if "The last attempt is wrong" in question else "written"] += 1
        program = answer.removeprefix("```python\n").removesuffix("```")
        assert program in (problem.gold, problem.extras["stand_in"]["mistake"])
        right += program == problem.gold
        assert ("Attempt 1" in question) == ("The last attempt is wrong" in question)
    assert kinds == {"value": 40, "mended": 12, "written": 12}
    assert 6 <= right <= 18  # of 24, half of them misread


def test_a_judge_is_measured_on_what_passes_the_public_tests():
    known = cases(lists(), 10, seed=1)
    assert len(known) == 10 and all(case.right != case.wrong for case in known)


@pytest.mark.slow
def test_a_pupil_learns(tmp_path):
    losses = []
    sizes = Sizes(400, 0, 0, epochs=2, batch=16, width=64, num_layers=2)
    model = pupil(0, sizes, tmp_path, lists(50), lambda r: losses.append(r.metrics["loss"]))
    assert len(losses) == 50 and losses[-1] < losses[0] / 2 and model.name == "pupil"


def test_a_program_is_run_once_and_told_again():
    sandbox = Remembered(Unprotected())

    async def run(source, **limits):
        return await sandbox.run(Script(source), SandboxLimits(**limits))

    first, again = asyncio.run(run("print(1)")), asyncio.run(run("print(1)"))
    assert first is again and first.stdout == "1\n" and sandbox.runs == 1
    asyncio.run(run("print(2)")), asyncio.run(run("print(1)", seconds=5.0))
    assert sandbox.runs == 3
