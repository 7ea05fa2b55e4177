"""The interval of the mean reward is that of the problems, whose rollouts are not independent."""

import math

import pytest

from evolute.train.control.records import reward_interval
from evolute.types import Outcome, Rollout


def rollouts(rewards_by_group):
    return [
        Rollout(f"p{group}", group, index, reward, Outcome.DONE, ())
        for group, rewards in enumerate(rewards_by_group)
        for index, reward in enumerate(rewards)
    ]


def test_it_is_that_of_the_problems():
    found = reward_interval(rollouts([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]))
    half = 4.303 * 0.5 / math.sqrt(3)  # means 1, 0, 1/2: standard deviation 1/2
    assert found == pytest.approx({"reward_low": 0.5 - half, "reward_high": 0.5 + half})


def test_more_rollouts_of_the_same_problems_do_not_narrow_it():
    few, many = ([[1] * n, [0] * n] for n in (2, 20))
    assert reward_interval(rollouts(few)) == reward_interval(rollouts(many))


def test_one_problem_has_none():
    assert reward_interval(rollouts([[1, 0]])) == {}
