"""Intervals hold the truth as often as they say, and move the right way."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs import mean_interval, paired_difference, wilson
from evolute.envs.intervals import t95

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def paired(pairs):
    return paired_difference(
        {str(i): before for i, (before, _) in enumerate(pairs)},
        {str(i): after for i, (_, after) in enumerate(pairs)},
    )


@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.9])
def test_a_shares_interval_covers_it(p):
    source = random.Random(1)
    intervals = [wilson(sum(source.random() < p for _ in range(60)), 60) for _ in range(1000)]
    covered = sum(i.low <= p <= i.high for i in intervals) / 1000
    assert 0.92 < covered <= 0.999


@pytest.mark.parametrize(
    ("gained", "lost"), [(0.0, 0.0), (0.05, 0.0), (0.1, 0.05), (0.4, 0.1), (0.0, 0.3)]
)
@pytest.mark.parametrize("both", [0.1, 0.4])
def test_a_differences_interval_covers_it(gained, lost, both):
    kinds = [(False, True), (True, False), (True, True), (False, False)]
    weights = [gained, lost, both, 1 - gained - lost - both]
    source = random.Random(2)
    found = [paired(source.choices(kinds, weights, k=100)) for _ in range(600)]
    covered = sum(i.low <= gained - lost <= i.high for i in found) / 600
    assert covered > 0.92


@given(answers)
def test_an_interval_holds_its_mean_and_stays_in_bounds(pairs):
    found = paired(pairs)
    gains = [after - before for before, after in pairs]
    assert found.mean == pytest.approx(sum(gains) / len(gains))
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


@given(answers)
def test_the_difference_the_other_way_is_its_mirror(pairs):
    there, back = paired(pairs), paired([(after, before) for before, after in pairs])
    assert (there.mean, there.low, there.high) == pytest.approx(
        (-back.mean, -back.high, -back.low), abs=1e-12
    )


def test_answers_to_the_same_problems_say_more_than_answers_to_others():
    same = paired([(True, True)] * 50 + [(False, False)] * 40 + [(False, True)] * 10)
    mixed = paired(
        [(True, True)] * 30 + [(False, False)] * 20 + [(False, True)] * 30 + [(True, False)] * 20
    )
    assert same.mean == mixed.mean == pytest.approx(0.1)
    assert same.high - same.low < mixed.high - mixed.low
    assert same.low > 0 > mixed.low


def test_only_problems_that_both_answered_count():
    before, after = {"a": False, "b": True, "x": True}, {"a": True, "b": True, "y": False}
    assert paired_difference(before, after) == paired([(False, True), (True, True)])


def test_without_data_everything_is_possible():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    nothing = paired_difference({"a": True}, {"b": True})
    assert (nothing.mean, nothing.low, nothing.high) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("n", "quantile"), [(2, 12.7062), (10, 2.2622), (11, 2.2281), (16, 2.1314), (31, 2.0423)]
)
def test_quantiles_of_student(n, quantile):
    """Tables of the distribution, for n - 1 degrees of freedom."""
    assert t95(n) == pytest.approx(quantile, abs=0.003)


def test_the_interval_of_a_mean_widens_for_few_values():
    found = mean_interval([1.0, 0.0, 0.5])
    assert found.mean == 0.5 and found.high - 0.5 == pytest.approx(4.303 * 0.5 / math.sqrt(3))
