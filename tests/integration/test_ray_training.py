"""A run on Ray is the run in process, to the bit with one trainer; what dies costs no row."""

import asyncio
import dataclasses
import json

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.train import Controller, RayConfig, SyncConfig, TrainConfig
from evolute.train.ray import RayRun
from evolute.train.rollouts import Journal

BASE = TrainConfig(
    model="tiny",
    task="addition-1",
    steps=3,
    prompts_per_step=2,
    samples_per_prompt=4,
    seed=2,
    max_new_tokens=8,
    stall_timeout_s=240.0,
)
TWO = RayConfig(engines=2, trainers=1, engine_memory_mb=64)
TINY = load_model("tiny")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def rewards(monkeypatch):
    """Contrast in every group, so that every step changes the weights."""
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def journal(directory):
    return [
        (step, rollout.group, rollout.index, rollout.samples)
        for step, rollout in Journal(directory / "rollouts.jsonl").read()
    ]


def in_process(directory, config=BASE):
    with Engine(TINY, page_size=4, num_threads=1, memory_mb=64) as engine:
        run = Controller(config, directory, TINY, engine)
        asyncio.run(run.run())
        return run.crew.weights().fingerprint()


def on_ray(directory, config, on_step=None, act=None):
    with RayRun(config, directory) as ray:
        run = Controller(config, directory, TINY, ray.engines, players=ray.players, crew=ray.crew)
        if act:
            act(ray)
        asyncio.run(run.run((lambda report: on_step(ray, report)) if on_step else None))
        return run.crew.weights().fingerprint()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run in process."""
    from evolute.envs import arithmetic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))
        directory = tmp_path_factory.mktemp("plain")
        return directory, in_process(directory)


@pytest.mark.parametrize("way", ["publish", "shared_memory", "broadcast", "delta"])
def test_two_engines_and_a_trainer_give_the_bits_of_one_process(tmp_path, plain, way):
    config = dataclasses.replace(BASE, ray=TWO, sync=SyncConfig(way=way))
    fingerprint = on_ray(tmp_path, config)
    directory, expected = plain
    assert fingerprint == expected
    assert journal(tmp_path) == journal(directory)
    for ours, theirs in zip(metrics(tmp_path), metrics(directory), strict=True):
        assert ours["num_engines"] == 2
        for key in ("fingerprint", "loss", "grad_norm", "reward_mean", "tokens", "version"):
            assert ours[key] == theirs[key], key
