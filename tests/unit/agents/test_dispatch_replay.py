"""A recorded run under other limits: exact where the arithmetic can be done by hand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.agents.dispatcher import DispatchConfig
from evolute.agents.simulation import Recorded, ReplayConfig, compared, read_recorded, replay
from evolute.cli.simulate import KINDS
from evolute.types import ConfigError

TWELVE = [Recorded(1.0, 2.0, 3.0)] * 12


def pipeline(cap, live=0):
    return DispatchConfig(max_init=cap, max_run=cap, max_eval=cap, queue=cap, max_live=live)


def test_by_hand():
    bounded = replay(TWELVE, range(12), DispatchConfig(schedule="bounded", max_run=4))
    assert (bounded.makespan_s, bounded.peak_live) == (3 * 6, 4)
    whole = replay(TWELVE, range(12), pipeline(4))
    assert whole.makespan_s == 3 * 3 + 1 + 2  # the slowest stage, and the way to it
    assert replay(TWELVE, range(12), pipeline(4, live=4)).makespan_s == 3 * 6
    assert replay(TWELVE, range(12), DispatchConfig(schedule="all")).makespan_s == 6


seconds = st.floats(0, 50)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.builds(Recorded, seconds, seconds, seconds), min_size=1, max_size=12))
def test_no_schedule_beats_its_bounds(found):
    groups, cap = range(len(found)), 3
    whole = [one.init_s + one.run_s + one.eval_s for one in found]
    for limits in (DispatchConfig(schedule="bounded", max_run=cap), pipeline(cap)):
        made = replay(found, groups, limits).makespan_s
        slowest = max(sum(one.init_s for one in found), sum(one.eval_s for one in found)) / cap
        assert made >= max(*whole, slowest) - 1e-6
        assert made <= sum(whole) + 1e-6


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(group, eval_s=3.0, **changes):
    times = {"live": 0.0, "init": 1.0, "run": 2.0, "eval": eval_s}
    told = {name: {"wait_s": 9.0, "service_s": took} for name, took in times.items()}
    return {"group": group, "failure": None, "times": told, **changes}


def test_a_run_is_read_without_what_did_not_get_through(tmp_path):
    path = lines(
        tmp_path / "trajectories.jsonl",
        record(0),
        record(0, failure="timeout"),
        record(1, eval_s=4.0),
        {**record(2), "times": {"init": {"service_s": 1.0}}},
    )
    assert read_recorded(path) == ([Recorded(1, 2, 3), Recorded(1, 2, 4)], [0, 1])
    with pytest.raises(ConfigError, match="no finished trajectory"):
        read_recorded(lines(tmp_path / "none.jsonl", record(0, failure="engine")))


def test_the_command_tells_each_schedule_and_what_if(tmp_path, capsys):
    path = lines(tmp_path / "trajectories.jsonl", *(record(n) for n in range(12)))
    file = tmp_path / "replay.toml"
    file.write_text(f'kind = "replay"\ntrajectories = "{path}"\ncap = 4\n')
    told = KINDS["replay"](file, ["dispatch.max_run=2", "eval=0.5"], False)
    assert told["schedules"]["bounded batch 4"] == {"makespan_s": 3 * 4.5, "peak_live": 4.0}
    assert set(told["schedules"]) == {*_names(4), "as in [dispatch]"}
    assert "makespan" in capsys.readouterr().out


def _names(cap):
    return {f"bounded batch {cap}", f"pipeline {cap}", f"pipeline {cap}, live {cap}"}


@pytest.mark.parametrize("wrong", [{}, {"trajectories": "x", "cap": 0}, {"kind": "dispatch"}])
def test_settings_that_say_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        ReplayConfig(**wrong)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        compared(ReplayConfig(trajectories=str(tmp_path / "none.jsonl")))
