"""Sides take turns in processes that stay, and one that fails says why."""

import sys

import pytest

from evolute.bench.peers import Side, comparison, ratio_of, take_turns

ECHO = """
import json, os, sys
count = 0
for line in sys.stdin:
    count += 1
    print(json.dumps({"count": count, "speed": float(os.environ["SPEED"])}), flush=True)
"""


def side(source, timeout_s=20.0, **environment):
    return Side([sys.executable, "-c", source], environment, timeout_s)


def test_turns_alternate_and_each_side_stays_alive(capsys):
    order = []
    with side(ECHO, SPEED="2") as a, side(ECHO, SPEED="1") as b:
        sides = {"a": a, "b": b}
        taken = take_turns(["a", "b"], 3, lambda name: order.append(name) or sides[name].turn())
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [one["count"] for one in taken["a"]] == [1, 2, 3]
    assert "round 2 b: count 2, speed 1" in capsys.readouterr().err
    speeds = {name: [one["speed"] for one in found] for name, found in taken.items()}
    ratio = ratio_of(speeds["a"], speeds["b"])
    assert ratio == pytest.approx({"mean": 2.0, "low": 2.0, "high": 2.0})
    found = comparison("peers", taken, {"a / b": ratio})
    assert found["n"] == 3 and found["sides"]["a"]["spread"]["count"] == (1, 3)


def test_one_round_has_a_ratio_without_an_interval():
    assert ratio_of([3.0], [2.0]) == {"mean": pytest.approx(1.5)}


def test_a_side_that_ends_shows_its_last_words():
    source = "import sys; sys.stdin.readline(); sys.exit('no such model')"
    with side(source) as one, pytest.raises(RuntimeError, match=r"ended:\n.*no such model"):
        one.turn()


def test_a_side_that_says_nothing_is_not_waited_for():
    source = "import time; time.sleep(60)"
    with side(source, timeout_s=0.2) as one, pytest.raises(RuntimeError, match="gave nothing"):
        one.turn()
