"""A run whose task has tools is played by agents, and what they did is what is trained."""

import asyncio
import json

import pytest

from evolute.engine import Engine, EngineConfig
from evolute.models import load_model
from evolute.train import Controller, TrainConfig, effective_settings
from evolute.types import ConfigError
from evolute.types.settings import load

SMALL = {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2}


def config(**changes):
    given = {"model": "tiny", "task": "search-qa", **SMALL, "agent.max_turns": 3}
    given |= {"agent.max_new_tokens": 24, **changes}
    if not str(given["task"]).startswith("search-qa"):
        given = {key: value for key, value in given.items() if key in changes or key in SMALL}
    return load(TrainConfig, overrides=[f"{key}={value}" for key, value in given.items()])


def run(folder, chosen, steps=None):
    model = load_model("tiny")
    with Engine(model, EngineConfig(page_size=4, num_threads=1)) as engine:
        controller = Controller(chosen, folder, model, engine)
        stop = iter([False] * (steps or 99) + [True] * 99)
        done = asyncio.run(controller.run(should_stop=lambda: next(stop)))
        return done, controller.policy.snapshot().fingerprint()


def journal(folder):
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_trajectories_are_journaled_as_they_were_sampled(tmp_path):
    done, _ = run(tmp_path, config())
    rows = journal(tmp_path)
    assert done == 1 and len(rows) == 8
    for row in rows:
        for sample in row["samples"]:
            trained, told = sample["loss_mask"], sample["rollout_logprobs"]
            assert any(trained) and not all(trained)  # what tools said is not trained
            assert all(value == 0 for value, is_own in zip(told, trained) if not is_own)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", config())
    assert run(tmp_path / "parts", config(), steps=1)[0] == 0
    assert run(tmp_path / "parts", config()) == whole
    assert journal(tmp_path / "parts") == journal(tmp_path / "whole")


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "addition-1", "agent.max_turns": 3},
        {"task": "addition-1", "dispatch.max_live": 2},
        {"agent.temperature": 0.5},
        {"agent.top_p": 0.9},
        {"max_new_tokens": 8},
    ],
)
def test_what_would_do_nothing_is_refused(changes):
    with pytest.raises(ConfigError, match="does nothing here"):
        config(**changes)


def test_tasks_without_tools_say_so_in_one_line():
    lines = effective_settings(TrainConfig(model="tiny", task="addition-1"))
    assert [line for line in lines if "agent.*" in line and "dispatch.*" in line]
    assert not [line for line in lines if "max_turns" in line]
