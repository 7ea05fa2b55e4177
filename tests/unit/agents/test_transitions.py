import math

import pytest

from evolute.agents import Transition, samples_of
from evolute.types import BackendError, VersionSegment


def step(prompt, action, agent="main", version=0):
    logprobs = tuple(-(id % 7) / 7 for id in action)
    versions = (VersionSegment(version, len(action)),) if action else ()
    return Transition(tuple(prompt), tuple(action), logprobs, versions, agent)


def test_an_append_only_agent_gives_one_sample():
    calls = [step([1, 2], [3, 4]), step([1, 2, 3, 4, 5], [6], version=1), step(range(1, 8), [8])]
    (sample,) = samples_of(calls)
    assert sample.prompt_ids == (1, 2)
    assert sample.response_ids == (3, 4, 5, 6, 7, 8)
    assert sample.loss_mask == (True, True, False, True, False, True)
    assert sample.rollout_logprobs == (-3 / 7, -4 / 7, 0.0, -6 / 7, 0.0, -1 / 7)
    segments = [(each.version, each.num_tokens) for each in sample.weight_versions]
    assert segments == [(0, 2), (1, 1), (0, 1)]


def test_a_reset_begins_another_sample():
    calls = [step([1], [2]), step([1, 2, 3], [4]), step([1, 9], [5]), step([1, 9, 5, 6], [7])]
    first, second = samples_of(calls)
    assert first.prompt_ids == (1,) and first.response_ids == (2, 3, 4)
    assert second.prompt_ids == (1, 9) and second.response_ids == (5, 6, 7)
    assert second.loss_mask == (True, False, True)


def test_a_prompt_that_lost_its_end_is_a_reset():
    calls = [step([1, 2], [3, 4]), step([1, 2, 3], [5])]
    assert [one.prompt_ids for one in samples_of(calls)] == [(1, 2), (1, 2, 3)]


def test_each_agent_has_a_chain_of_its_own():
    calls = [
        step([1], [2]),
        step([7], [8], "main.1"),
        step([1, 2, 3], [4]),
        step([7, 8, 9], [9], "main.1"),
        step([1, 2, 3, 4], [5]),
    ]
    main, other = samples_of(calls)
    assert main.response_ids == (2, 3, 4, 5)
    assert main.loss_mask == (True, False, True, True)
    assert other.prompt_ids == (7,) and other.response_ids == (8, 9, 9)


def test_without_merging_each_call_is_a_sample():
    calls = [step([1], [2]), step([1, 2, 3], [4])]
    samples = samples_of(calls, merge=False)
    assert [one.prompt_ids for one in samples] == [(1,), (1, 2, 3)]
    assert all(all(one.loss_mask) for one in samples)


@pytest.mark.parametrize(
    "logprobs", [(), (-0.5,), None, (-0.5, None), (-0.5, math.nan), (-0.5, -math.inf)]
)
def test_missing_logprobs_are_refused(logprobs):
    with pytest.raises(BackendError, match="training needs"):
        Transition((1,), (2, 3), logprobs)


def test_versions_must_cover_the_tokens():
    with pytest.raises(BackendError, match="versions"):
        Transition((1,), (2, 3), (-1.0, -1.0), (VersionSegment(0, 1),))


def test_where_one_call_has_no_versions_the_sample_has_none():
    calls = [step([1], [2]), Transition((1, 2), (3,), (-0.5,))]
    (sample,) = samples_of(calls)
    assert sample.weight_versions == ()


def test_no_calls_no_samples():
    assert samples_of([]) == ()
