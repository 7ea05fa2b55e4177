"""A comparison finds what is there, and does not find what is not."""

import itertools
import random

import pytest

from evolute.bench import compare, table
from evolute.types import ConfigError


def noisy(source, speed, spread=0.05):
    return lambda: speed * source.lognormvariate(0.0, spread)


def test_a_real_difference_is_clear_and_lies_in_its_interval():
    source = random.Random(0)
    found = compare("x", noisy(source, 100.0), noisy(source, 150.0), rounds=8)
    assert found.is_clear
    assert found.ratio.low < 1.5 < found.ratio.high
    assert (found.ratio.n, len(found.a), len(found.b)) == (8, 8, 8)


def test_equal_speeds_are_called_different_in_about_one_of_twenty():
    source = random.Random(1)
    wrong = sum(
        compare("x", noisy(source, 1.0, 0.2), noisy(source, 1.0, 0.2), warm_up=0).is_clear
        for _ in range(1000)
    )
    assert 25 <= wrong <= 80


def test_drift_of_the_machine_does_not_make_a_difference():
    clock = itertools.count()

    def drifting(speed):
        return lambda: speed / (1.0 + 0.05 * next(clock))

    found = compare("x", drifting(100.0), drifting(100.0), rounds=10, warm_up=0)
    assert found.ratio.mean == pytest.approx(1.0, abs=0.02)
    assert not found.is_clear


def test_sides_are_measured_in_turn_and_take_turns_to_begin():
    order = []
    compare("x", lambda: order.append("a") or 1.0, lambda: order.append("b") or 1.1, rounds=5)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba" + "ab"


@pytest.mark.parametrize("rounds", [0, 4, 11])
def test_too_few_and_too_many_rounds_are_refused(rounds):
    with pytest.raises(ConfigError, match="between 5 and 10"):
        compare("x", lambda: 1.0, lambda: 1.0, rounds=rounds)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed):
    with pytest.raises(ConfigError, match="positive and finite"):
        compare("x", lambda: 1.0, lambda: speed)


def test_the_table_says_what_is_within_the_noise():
    source = random.Random(2)
    rows = [
        compare("fast", noisy(source, 1.0), noisy(source, 3.0)),
        compare("same", noisy(source, 1.0), noisy(source, 1.0)),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 3
    assert "noise" not in lines[1] and "within the noise" in lines[2]
