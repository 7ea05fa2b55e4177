"""state.json is the truth: whatever a kill left of metrics.jsonl, each record ends there once."""

import json

import pytest

from evolute.cli.run_state import RunState, create, find
from evolute.types import ConfigError

OTHER = '{"kind": "train_step", "step": 0}\n'
RECORDS = [{"kind": "eval", "mean": 0.1 + 0.2}, {"kind": "phase", "name": "base", "seconds": 1 / 3}]


@pytest.fixture
def run(tmp_path):
    create(tmp_path / "r", "a = 1\n")
    return tmp_path / "r"


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_is_owed_is_paid_wherever_the_kill_came(run):
    metrics = run / "metrics.jsonl"
    metrics.write_text(OTHER)
    with RunState(run) as state:
        state.finish("base", {"p": True}, RECORDS)
    whole = metrics.read_bytes()
    for size in range(len(OTHER), len(whole) + 1):
        metrics.write_bytes(whole[:size])
        with RunState(run) as state:
            assert state.is_done("base") and state.result("base") == {"p": True}
        assert metrics.read_bytes() == whole


def test_records_of_a_phase_that_is_not_done_go(run):
    with RunState(run) as state:
        state.finish("base", 1, RECORDS)
        state.finish("train", 2, [{"kind": "phase", "name": "train"}])
    phases = json.loads((run / "state.json").read_text())
    del phases["base"]
    (run / "state.json").write_text(json.dumps(phases))
    with RunState(run) as state:
        assert not state.is_done("base") and state.result("base") is None
    assert [r["name"] for r in lines(run)] == ["train"]


def test_one_process_holds_a_run(run):
    with RunState(run), pytest.raises(ConfigError, match="in use by process"), RunState(run):
        pass
    with RunState(run):
        pass


def test_a_run_is_made_once_and_found_by_name(run):
    with pytest.raises(ConfigError, match="--resume r"):
        create(run, "")
    assert find(run.parent, "r") == run
    with pytest.raises(ConfigError, match="Known: r"):
        find(run.parent, "zzz")
