"""A judge that discusses nothing: the side that its model finds more probable has the vote."""

import asyncio

import pytest
from scripted_code import PUBLIC, OwnCalls, Weighing, is_right, problem

from evolute.envs.code.problem import CodeProblem, packed
from evolute.lang.account import Account, Budget
from evolute.lang.backend import Capabilities
from evolute.reasoning.method import Roles
from evolute.reasoning.s_star import SStar, SStarConfig
from evolute.reasoning.s_star.judge import calibrate, case_of
from evolute.reasoning.s_star.prompts import value_of
from evolute.testing import ScriptedTextBackend
from evolute.types import ConfigError, NotSupported, Problem

ROW = ("TRAP", "TWIN", "RIGHT", "WRONG")


def solve(backend, account=None, row=ROW, **config):
    settings = SStarConfig(samples=len(row), rounds=0, judge="likelihood", **config)
    method = SStar(Roles(backend), OwnCalls, settings)
    return asyncio.run(method.solve(problem("p"), account or Account()))


@pytest.mark.parametrize("selector", ["s_star", "s_star_plus", "judge"])
def test_what_is_probable_wins(selector):
    backend = Weighing({"p": ROW})
    solution = solve(backend, selector=selector)
    assert is_right(solution) and solution.reason == "tournament"
    assert solution.details["judge_calls"] == len(backend.weighed) > 0
    assert not any("Which" in request.prompt.text for request in backend.requests)
    assert not is_right(solve(Weighing({"p": ROW}, wrong=0.01), selector=selector))


class Even(Weighing):
    async def score(self, prefix, continuations):
        _, spent = await super().score(prefix, continuations)
        return [(-1.0,) for _ in continuations], spent


def test_equal_probabilities_say_nothing():
    solution = solve(Even({"p": ("TRAP", "RIGHT")}), row=("TRAP", "RIGHT"))
    assert solution.reason == "judge_useless" and solution.details["judge_calls"] == 1


def test_it_is_charged_and_held_to_the_budget():
    account = Account()
    solve(Weighing({"p": ROW}), account)
    assert account.by_role["judge"].calls == 1 and account.by_role["judge"].prompt_tokens > 20
    spent = Account(Budget(calls=len(ROW)))
    solution = solve(Weighing({"p": ROW}), spent)
    assert solution.reason == "budget" and spent.spent.calls == len(ROW)


def test_a_begun_body_is_weighed_from_where_the_prompt_ends():
    starter = 'def f(x):\n    """Square x."""\n'
    code = CodeProblem("p", starter, "function", "f", starter, PUBLIC)
    asked = Problem("p", ({"role": "user", "content": starter},), "", {"code": packed(code)})
    bodies, backend = [" return x * x\n", " return abs(x) ** 3\n"], Weighing({})
    config = SStarConfig(samples=2, rounds=0, judge="likelihood", style="body", selector="judge")
    backend._script = lambda request: bodies[len(backend.requests) % 2]
    wholes = [f"{starter}   {body}" for body in bodies]
    asyncio.run(SStar(Roles(backend), lambda: OwnCalls(*wholes), config).solve(asked, Account()))
    (before, texts), *_ = backend.weighed
    assert before.endswith(starter + "   ") and sorted(texts) == sorted(bodies)


def test_a_number_that_begins_another_has_no_advantage():
    code = solved_code()
    for style in ("chat", "complete", "body"):
        _, form = value_of(code, "2", style)
        assert not form.format("41").startswith(form.format("4"))


def solved_code():
    from evolute.envs.code.problem import code_problem

    return code_problem(problem("p"))


@pytest.mark.parametrize(("wrong", "accuracy"), [(1.0, 1.0), (0.01, 0.0)])
def test_it_is_calibrated_like_any_judge(wrong, accuracy):
    cases = [case_of(solved_code(), (x,), x * x, x * x + d) for x, d in ((2, 1), (3, -1), (12, 1))]
    config = SStarConfig(judge="likelihood")
    assert asyncio.run(calibrate(Weighing({}, wrong), cases, config)) == accuracy


def test_who_tells_no_tokens_is_refused_before_anything():
    deaf = ScriptedTextBackend(capabilities=Capabilities(chats=True))
    with pytest.raises(NotSupported, match="scores tokens"):
        SStar(Roles(deaf), OwnCalls, SStarConfig(judge="likelihood"))
    SStar(Roles(deaf), OwnCalls, SStarConfig(judge="likelihood", selector="public"))
    SStar(Roles(deaf, {"judge": Weighing({})}), OwnCalls, SStarConfig(judge="likelihood"))
    with pytest.raises(ConfigError, match="judge_swap"):
        SStarConfig(judge="likelihood", judge_swap=False)
