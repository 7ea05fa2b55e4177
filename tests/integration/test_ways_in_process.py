"""`sync.way` in one process: the same run, its weights through a file and back, each proved."""

import asyncio
import dataclasses
import json

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.train import Controller, SyncConfig, TrainConfig
from evolute.train.sync import EngineHolder
from evolute.types import TrainingError

TINY = load_model("tiny")
BASE = TrainConfig(
    model="tiny",
    task="addition-1",
    steps=2,
    prompts_per_step=2,
    samples_per_prompt=3,
    seed=2,
    max_new_tokens=6,
)


@pytest.fixture(autouse=True)
def rewards(monkeypatch):
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


def prints(directory, way):
    config = dataclasses.replace(BASE, sync=SyncConfig(way=way))
    with Engine(TINY, page_size=4, memory_mb=32) as engine:
        asyncio.run(Controller(config, directory, TINY, engine).run())
        held = engine.fingerprint("policy")
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["fingerprint"] for line in lines]
    assert found[-1] == held, "what was proved is what the engine holds"
    return found


def test_each_way_gives_the_run_that_hands_over(tmp_path):
    plain = prints(tmp_path / "publish", "publish")
    assert len(set(plain)) == BASE.steps
    for way in ("shared_memory", "delta"):
        assert prints(tmp_path / way, way) == plain


def test_a_run_goes_on_with_another_way(tmp_path):
    """Where things are computed is no part of what a checkpoint belongs to."""
    prints(tmp_path, "publish")
    with Engine(TINY, page_size=4, memory_mb=32) as engine:
        config = dataclasses.replace(BASE, sync=SyncConfig(way="delta"))
        assert asyncio.run(Controller(config, tmp_path, TINY, engine).run()) == BASE.steps - 1


def test_weights_that_did_not_arrive_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(EngineHolder, "load", lambda self, weights, version: "another digest")
    with pytest.raises(TrainingError, match="did not arrive"):
        prints(tmp_path, "delta")
