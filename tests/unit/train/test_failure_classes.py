"""Each failure has a class, three decisions follow from the settings, and bias is told."""

import pytest

from evolute.train.credit import credit, numbered
from evolute.train.failures import Bias, class_of, count_classes, is_compared, is_trained, is_valued
from evolute.train.settings import FailureConfig, TrainConfig
from evolute.types import Outcome, Rollout, TrainingSample

SAMPLE = TrainingSample((1, 2), (3, 4), (True, True), (-1.0, -1.0))


def rollout(index=0, reward=0.0, outcome=Outcome.DONE, failure=None, samples=(SAMPLE,), group=0):
    return Rollout("p", group, index, reward, outcome, samples, failure=failure)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ("BackendError", "engine"),
        ("OutOfCapacity", "engine"),
        ("ToolError", "environment"),
        ("SandboxError", "environment"),
        ("RewardError", "grader"),
        ("TimeoutError", "timeout"),
        ("EpisodeTimeout", "timeout"),
        ("KeyError", "other"),
        (None, "other"),
    ],
)
def test_the_name_of_the_error_says_whose_doing_it_was(failure, cause):
    assert class_of(rollout(outcome=Outcome.FAILED, failure=failure)) == cause


def test_the_models_own_doing_is_no_failure_of_the_infrastructure():
    assert class_of(rollout()) == ""
    assert class_of(rollout(outcome=Outcome.TRUNCATED)) == "truncated"
    assert count_classes([rollout(), rollout(outcome=Outcome.TRUNCATED)]) == {"truncated": 1}


@pytest.mark.parametrize(
    ("use", "answers"),
    [
        ("nothing", (False, False, False)),
        ("reward", (True, False, False)),
        ("statistics", (True, True, False)),
        ("gradient", (True, True, True)),
    ],
)
@pytest.mark.parametrize("cause", ["truncated", "grader"])
def test_three_questions_have_one_setting(use, answers, cause):
    config = FailureConfig(**{cause: use})
    outcome = Outcome.TRUNCATED if cause == "truncated" else Outcome.FAILED
    one = rollout(outcome=outcome, failure="RewardError")
    assert tuple(ask(one, config) for ask in (is_valued, is_compared, is_trained)) == answers


def advantages(rollouts, **failures):
    config = TrainConfig(model="tiny", failures=FailureConfig(**failures))
    members = numbered(rollouts, config.failures)
    return {
        members[c.number].rollout.index: round(c.advantage / c.weight, 3)
        for c in credit(rollouts, config)
    }


def test_a_failed_member_leaves_its_group():
    group = [rollout(0, 1.0), rollout(1, 0.0), rollout(2, 0.0, Outcome.FAILED, "BackendError")]
    assert advantages(group) == {0: 0.707, 1: -0.707}


def test_a_capped_member_may_stay_in_the_statistics_alone():
    group = [rollout(0, 1.0), rollout(1, 0.0), rollout(2, 0.0, Outcome.TRUNCATED)]
    assert advantages(group) == {0: 1.155, 1: -0.577, 2: -0.577}
    assert advantages(group, truncated="statistics") == {0: 1.155, 1: -0.577}
    assert advantages(group, truncated="reward") == {0: 0.707, 1: -0.707}


def test_a_failure_without_tokens_can_still_count_in_the_statistics():
    lost = rollout(2, 0.0, Outcome.FAILED, "BackendError", samples=())
    group = [rollout(0, 1.0), rollout(1, 0.0), lost]
    assert advantages(group, engine="statistics") == {0: 1.155, 1: -0.577}
    assert advantages(group, engine="gradient") == {0: 1.155, 1: -0.577}


def test_failures_that_hit_hard_and_long_problems_are_told():
    long = TrainingSample((1,), (2,) * 50, (True,) * 50, (-1.0,) * 50)
    bias = Bias()
    assert bias.report() == {}
    for group in range(10):
        is_hard = group % 2
        sample = long if is_hard else SAMPLE
        ended = [rollout(i, 1.0 - is_hard, samples=(sample,), group=group) for i in range(3)]
        last = rollout(3, 0.0, Outcome.FAILED, "ToolError", group=group) if is_hard else ended[0]
        bias.add([*ended, last])
    assert bias.report() == {
        "failed_frac_hard": 0.25,
        "failed_frac_easy": 0.0,
        "failed_frac_short": 0.0,
        "failed_frac_long": 0.25,
    }
