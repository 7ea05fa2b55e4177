"""Schedules on a virtual clock: where asynchrony helps, where it does not, and the verb."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from evolute.cli.simulate import app
from evolute.train.simulation import (
    ClusterModel,
    EngineModel,
    Spread,
    TrainerModel,
    TrainingSimulation,
    predict,
    predict_all,
)
from evolute.types import ConfigError
from evolute.types.settings import load

HEAVY = TrainingSimulation(
    steps=10,
    prompts_per_step=8,
    samples_per_prompt=4,
    tokens=Spread("lognormal", 1000.0, 1.0, 8000.0),
    engine=EngineModel(50.0, 3200.0, 256),
    trainer=TrainerModel(800.0, 0.0, 1.0),
    cluster=ClusterModel(0.5, is_colocated=False),
)


def test_heavy_tails_order_the_schedules():
    found = predict_all(HEAVY)
    sync, one, free = (found[name].makespan_s for name in found)
    assert list(found) == ["synchronous", "one_step_off", "asynchronous"]
    assert free < one < sync
    assert sync / free > 1.8
    assert {f.steps for f in found.values()} == {10}
    for prediction in found.values():
        assert sum(prediction.staleness.values()) == pytest.approx(1)
        assert 0 <= prediction.engine_idle < 1 and 0 <= prediction.trainer_idle < 1
    assert found["synchronous"].staleness_max == 0
    assert found["one_step_off"].staleness_max == 1
    assert found["asynchronous"].staleness_mean <= HEAVY.max_staleness


def test_short_and_equal_lengths_gain_little_where_the_chips_are_shared():
    short = replace(
        HEAVY,
        tokens=Spread("uniform", 100.0, 0.1),
        engine=EngineModel(50.0, 800.0, 256),
        trainer=TrainerModel(800.0, 0.0, 0.0),
        cluster=ClusterModel(0.5, is_colocated=True),
    )
    found = predict_all(short)
    assert found["synchronous"].makespan_s / found["asynchronous"].makespan_s < 1.15


def test_without_staleness_it_costs_what_the_synchronous_run_costs():
    fresh = predict(replace(HEAVY, max_staleness=0), "asynchronous")
    sync = predict(HEAVY, "synchronous")
    assert fresh.makespan_s == pytest.approx(sync.makespan_s)
    assert fresh.staleness_max == 0


def test_the_same_settings_give_the_same_prediction():
    assert predict(HEAVY, "asynchronous") == predict(HEAVY, "asynchronous")


def test_tools_that_wait_are_waited_for():
    waiting = replace(HEAVY, turns=Spread("fixed", 3.0), tool_s=Spread("fixed", 100.0))
    longer = predict(waiting, "synchronous").makespan_s - predict(HEAVY, "synchronous").makespan_s
    assert longer > 10 * 2 * 100


def test_lengths_come_from_a_file(tmp_path):
    (tmp_path / "lengths.txt").write_text("50\n" * 10)
    traced = replace(HEAVY, tokens=Spread("trace", file=str(tmp_path / "lengths.txt")))
    fixed = replace(HEAVY, tokens=Spread("fixed", 50.0))
    assert predict(traced, "synchronous") == predict(fixed, "synchronous")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedules = ['fast']", "known are"),
        ("tokens = { kind = 'trace' }", "file"),
        ("tokens = { kind = 'uniform', mean = 3, spread = 2 }", "negative"),
        ("cluster = { engine_share = 1 }", "between 0 and 1"),
        ("engine = { tokens_s = 0 }", "above 0"),
        ("tokns = 3", "Did you mean 'tokens'"),
    ],
)
def test_bad_settings_are_refused(tmp_path, text, message):
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(TrainingSimulation, files=[file])


def test_the_verb(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('kind = "training"\nsteps = 3\nprompts_per_step = 4\nsamples_per_prompt = 2\n')
    result = CliRunner().invoke(app, [str(file), "--json", "--set", "max_staleness=1"])
    assert result.exit_code == 0, result.output
    assert "speed-up" in result.output
    told = json.loads(result.output.splitlines()[-1])
    assert told["config"]["max_staleness"] == 1
    assert set(told["schedules"]) == {"synchronous", "one_step_off", "asynchronous"}
    assert told["schedules"]["synchronous"]["makespan_s"] > 0
