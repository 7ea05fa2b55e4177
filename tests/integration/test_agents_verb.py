"""From the command line: an agent on a task, stopped and gone on with; a dispatch simulation."""

import json

import pytest
from typer.testing import CliRunner

from evolute.agents.run import read_trajectories
from evolute.cli.agents import app as agents
from evolute.cli.simulate import app as simulate
from evolute.types import ConfigError

AGENT = """
task = "memory-qa"
model = "tiny"
count = 2
samples = 2

[agent]
max_turns = 2
max_new_tokens = 12
"""


def run(app, *words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(AGENT)
    return path


def test_an_agent_runs_on_the_tiny_model_and_goes_on(recipe, tmp_path):
    words = ("run", recipe, "--run-dir", tmp_path / "run", "--json")
    out = run(agents, *words)
    found = json.loads(out.splitlines()[-1])
    assert found["n"] == 4 and found["problems"] == 2 and found["resumed"] == 0
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert found["max_turns_ratio"] + found["context_ratio"] + found["finish_ratio"] == 1
    assert "accuracy" in out.splitlines()[0]
    path = tmp_path / "run" / "trajectories.jsonl"
    before = path.read_text()
    lines = before.splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert json.loads(run(agents, *words).splitlines()[-1])["resumed"] == 3
    rollouts = read_trajectories(path)
    assert [(r.group, r.index) for r in rollouts] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(sum(sample.loss_mask) for rollout in rollouts for sample in rollout.samples)
    first = json.loads(lines[0])
    assert first["prompt"] and first["text"] and first["times"]["run"]["service_s"] > 0
    assert {r.text for r in rollouts} == {json.loads(line)["text"] for line in lines}
    with pytest.raises(ConfigError, match="other settings"):
        run(agents, *words, "--agent.max_turns", "3")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--tsk", "x"), "task"),
        (("--task", "memory-q"), "memory-qa"),
        (("--agent.form", "xml"), "form"),
        (("--dispatch.schedule", "bounded", "--dispatch.max_init", "3"), "does nothing"),
        (("--url", "http://127.0.0.1:9", "--engine.context", "99"), "engine"),
    ],
)
def test_settings_that_cannot_be_name_what_to_change(recipe, tmp_path, words, error):
    with pytest.raises(ConfigError, match=error):
        run(agents, "run", recipe, "--run-dir", tmp_path / "run", *words)


def test_a_simulation_from_a_file(tmp_path):
    path = tmp_path / "dispatch.toml"
    path.write_text('kind = "dispatch"\nseeds = 1\ncap = 8\nlive_cap = 16\n[work]\nrollouts = 40\n')
    out = run(simulate, path, "--json", "--set", "sweep=[1.0]")
    found = json.loads(out.splitlines()[-1])
    names = [row["schedule"] for row in found["rows"]]
    assert names[0] == "all at once" and len(names) == 7
    assert all(row["done"] == 40 for row in found["rows"])
    assert found["ratio"] > 1 and found["ratio_equal_live"] == pytest.approx(1.0, abs=0.1)
    assert found["sweep"][0][1] == pytest.approx(found["ratio"])
    assert "bounded batch 8" in out


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("kind = 'dispach'", "dispatch"),
        ("x = 1", "kind"),
        ("kind = [", "cannot be read"),
        ("kind = 'dispatch'\ncapp = 3", "cap"),
    ],
)
def test_a_simulation_that_cannot_be(tmp_path, text, error):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error):
        run(simulate, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        run(simulate, tmp_path / "none.toml")
