"""Which settings of a run on Ray act, which are refused, and where each actor stands."""

import dataclasses
from pathlib import Path

import pytest

from evolute.train import RayConfig, SyncConfig, TrainConfig, effective_settings
from evolute.train.ray import RayRun
from evolute.train.ray.placement import layout
from evolute.train.settings import AsynchronyConfig
from evolute.types import ConfigError
from evolute.types.settings import load

RECIPES = sorted((Path(__file__).parents[3] / "recipes" / "ray").glob("*.toml"))
SOME = RayConfig(engines=2, trainers=2)


def of(ray=SOME, **changes):
    return TrainConfig(model="tiny", ray=ray, **changes)


def ray(**changes):
    return dataclasses.replace(SOME, **changes)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"ray": RayConfig(engines=2)}, "at least 1 of both"),
        ({"ray": RayConfig(trainers=2)}, "at least 1 of both"),
        ({"ray": RayConfig(workers=2)}, "set ray.engines and ray.trainers"),
        ({"ray": RayConfig(placement="colocated")}, "set ray.engines and ray.trainers"),
        ({"ray": ray(engines=3, placement="colocated")}, "make the numbers equal"),
        (
            {
                "ray": ray(placement="colocated"),
                "schedule": "asynchronous",
                "asynchrony": AsynchronyConfig(),
            },
            "set ray.placement = 'apart'",
        ),
        ({"ray": ray(placement="colocated"), "schedule": "one_step_off"}, "'apart'"),
        ({"ray": ray(engine_gpus=1.5)}, "whole number"),
        ({"ray": ray(engine_gpus=-1.0)}, "at least 0"),
        ({"ray": ray(trainer_cpus=0)}, "at least 1"),
        ({"ray": ray(requeues=1)}, "no ray.workers to lose"),
        ({"ray": ray(routing="round_robin", stickiness=3)}, "only ray.routing = 'sticky'"),
        ({"ray": ray(trainers=1, parallel="sharded"), "method": "full"}, "2 or more"),
        ({"ray": ray(parallel="sharded")}, "Set method = 'full'"),
        ({"ray": ray(collective_timeout_s=0.0)}, "no wait is without a limit"),
        ({"ray": RayConfig(), "sync": SyncConfig(way="broadcast")}, "other processes"),
        ({"ray": RayConfig(), "sync": SyncConfig(timeout_s=5.0)}, "waits for nobody"),
        ({"sync": SyncConfig(folder="x")}, "go through files"),
        ({"sync": SyncConfig(way="shared_memory", base_every=3)}, "only the way delta"),
        ({"sync": SyncConfig(way="delta", base_every=0)}, "at least 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_fix(changes, fix):
    with pytest.raises(ConfigError, match=fix):
        of(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"ray": ray(placement="colocated")},
        {"ray": ray(parallel="sharded"), "method": "full"},
        {"ray": ray(workers=2, requeues=1)},
        {"sync": SyncConfig(way="broadcast", timeout_s=5.0)},
        {"ray": RayConfig(), "sync": SyncConfig(way="delta", base_every=3, timeout_s=5.0)},
        {"schedule": "asynchronous"},
        {"ray": ray(engines=1, engine_gpus=4.0)},
    ],
)
def test_what_can_is_taken_and_told(changes):
    config = of(**changes)
    told = [line for line in effective_settings(config) if line.startswith("note: on Ray")]
    assert len(told) == config.ray.is_on


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_hold_only_settings_that_act(path):
    config = load(TrainConfig, files=[path], overrides=[])
    assert config.ray.is_on and layout(config.ray).bundles
    assert any(line.startswith("note: on Ray") for line in effective_settings(config))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"local", "one-gpu", "eight-gpus", "nodes"}


def test_apart_everybody_has_a_bundle():
    found = layout(ray(engines=3, trainers=2, workers=1, engine_gpus=1.0, engine_cpus=2))
    assert found.places == {"trainer": (0, 1), "engine": (2, 3, 4), "worker": (5,)}
    assert found.bundles[0] == {"CPU": 1.0} and found.bundles[3] == {"CPU": 2.0, "GPU": 1.0}
    assert (found.cpus, found.gpus, found.strategy) == (2 + 6 + 1, 3, "PACK")


def test_colocated_engine_and_trainer_share_one():
    found = layout(ray(placement="colocated", trainer_cpus=2, workers=1, nodes="strict_spread"))
    assert found.places == {"trainer": (0, 1), "engine": (0, 1), "worker": (2,)}
    assert found.bundles == ({"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 1.0})
    assert found.strategy == "STRICT_SPREAD"


def test_without_ray_installed_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install evolute\[ray\]"):
        RayRun(of(), tmp_path)


def test_a_run_that_is_not_on_ray_has_no_actors(tmp_path):
    with pytest.raises(ConfigError, match="nothing of this run is on Ray"):
        RayRun(of(RayConfig()), tmp_path)


def test_sessions_are_of_training(monkeypatch):
    from evolute.cli.serve_worker import Fleet, _engine

    with pytest.raises(ConfigError, match="requests of the server do not name"):
        _engine("tiny", None, Fleet(2, "sticky", None, None))


def test_the_loop_has_an_engine_of_its_own():
    from evolute.cli.main_job import LoopConfig

    with pytest.raises(ConfigError, match="evolute train rl"):
        LoopConfig(train=of())
