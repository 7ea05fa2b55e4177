"""The bench of S*: its stand-in, and figures that fit together and come out alike."""

import asyncio

from evolute.bench.programming.s_star import compared
from evolute.bench.programming.stand_in import Skill, StandIn
from evolute.envs import make_task
from evolute.envs.sandbox import Unprotected
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
