"""Plots hold what they are given, and draw nothing of nothing."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.dashboard.plots import Interval, bars, intervals, lines, ticks

finite = st.floats(-1e9, 1e9)


@given(finite, finite)
def test_ticks_hold_the_range_in_few_round_steps(a, b):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 9
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 8, [0, 2, 4, 6, 8]),
        (3, 3, [1, 2, 3, 4, 5]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_curve_goes_up_when_values_do():
    svg = lines("t", {"a": [(0, 0.0), (1, 1.0)]})
    (path,) = re.findall(r'class="line s0" d="M([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in path.split("L"))
    assert x0 < x1 and y0 > y1  # pixels count from the top


def test_nothing_is_drawn_of_nothing():
    assert lines("t", {"a": [], "b": [(0, math.nan)]}) == ""
    assert intervals("t", []) == ""
    assert bars("t", {}) == ""


def test_one_point_is_a_plot():
    assert lines("t", {"a": [(0, 0.0)]}).count("<circle") == 1


def test_values_out_of_the_bounds_given_are_not_cut():
    svg = lines("t", {"a": [(0, 5.0), (1, 7.0)]}, low=0.0, high=1.0)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert len(set(heights)) == 2


def test_an_infinite_end_reaches_the_edge_without_a_whisker():
    svg = intervals("t", [Interval("x", 1.0, 0.5, math.inf)])
    assert "inf" not in svg.replace("to inf", "")
    assert svg.count("v10") == 1


def test_names_are_escaped():
    assert "<b>" not in intervals("<b>", [Interval("<b>", 1.0, 0.0, 2.0)])
    assert "<b>" not in bars("<b>", {"<b>": 1.0})


def test_a_band_lies_around_its_curve_and_is_cut_at_the_edge():
    points, band = [(0, 0.2), (1, 0.6)], [(0, -9.0, 0.4), (1, 0.5, 9.0)]
    svg = lines("t", {"a": points}, low=0.0, high=1.0, bands={"a": band})
    (path,) = re.findall(r'class="band f0" d="M([^"]+)Z"', svg)
    corners = [tuple(map(float, corner.split())) for corner in path.split("L")]
    (curve,) = re.findall(r'class="line s0" d="M([^"]+)"', svg)
    (_, y0), (_, y1) = (map(float, point.split()) for point in curve.split("L"))
    (_, high0), (_, high1), (_, low1), (_, low0) = corners  # pixels count from the top
    assert high0 < y0 < low0 and high1 < y1 < low1
    assert low0 <= 220 - 34 + 0.1 and high1 >= 22 - 0.1
    assert lines("t", {"a": points}, bands={"a": [(0, math.nan, 1.0)]}).count("band") == 0


def test_an_axis_of_seconds_has_parts_of_seconds_and_one_of_steps_has_not():
    series = {"a": [(0.0, 1.0), (1.0, 2.0)]}
    seconds, steps = lines("x", series, x_name="s"), lines("x", series)
    assert ">0.4</text>" in seconds and ">0.4</text>" not in steps
    assert ">s</text>" in seconds and ">step</text>" in steps
    assert "a, s 1: 2" in seconds and "a, step 1: 2" in steps
