"""A run on Ray is the run in process, to the bit with one trainer; what dies costs no row."""

import asyncio
import dataclasses
import itertools
import json
import os
import signal
import threading
import time

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.train import Controller, RayConfig, SyncConfig, TrainConfig
from evolute.train.ray import RayRun
from evolute.train.rollouts import Journal
from evolute.train.settings import AsynchronyConfig
from evolute.types import TrainingError

BASE = TrainConfig(
    model="tiny",
    task="addition-1",
    steps=3,
    prompts_per_step=2,
    samples_per_prompt=4,
    seed=2,
    max_new_tokens=8,
    episode_timeout_s=400.0,
    stall_timeout_s=400.0,
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
        return run.crew.weights()


def on_ray(directory, config, on_step=None, act=None):
    with RayRun(config, directory) as ray:
        run = Controller(config, directory, TINY, ray.engines, players=ray.players, crew=ray.crew)
        if act:
            act(ray)
        asyncio.run(run.run((lambda report: on_step(ray, report)) if on_step else None))
        return run.crew.weights().fingerprint()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run in process: its directory, fingerprint and weights."""
    from evolute.envs import arithmetic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))
        directory = tmp_path_factory.mktemp("plain")
        weights = in_process(directory)
        return directory, weights.fingerprint(), weights


@pytest.mark.parametrize("way", ["publish", "shared_memory", "broadcast", "delta"])
def test_two_engines_and_a_trainer_give_the_bits_of_one_process(tmp_path, plain, way):
    config = dataclasses.replace(BASE, ray=TWO, sync=SyncConfig(way=way))
    fingerprint = on_ray(tmp_path, config)
    directory, expected, _ = plain
    assert fingerprint == expected
    assert journal(tmp_path) == journal(directory)
    for ours, theirs in zip(metrics(tmp_path), metrics(directory), strict=True):
        assert ours["num_engines"] == 2
        for key in ("fingerprint", "loss", "grad_norm", "reward_mean", "tokens", "version"):
            assert ours[key] == theirs[key], key


def difference(ours, theirs):
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for (_, a), (_, b) in pairs)


def each_row_once(directory, config):
    """Every episode of every step is in the journal once, and none has failed."""
    places = [(step, group, index) for step, group, index, _ in journal(directory)]
    wanted = itertools.product(
        range(config.steps), range(config.prompts_per_step), range(config.samples_per_prompt)
    )
    assert sorted(places) == sorted(wanted)
    assert all(record["num_failed"] == 0 for record in metrics(directory))


@pytest.mark.parametrize("placement", ["apart", "colocated"])
def test_two_ranks_train_what_one_process_does(tmp_path, plain, placement):
    ray = dataclasses.replace(TWO, trainers=2, placement=placement)
    config = dataclasses.replace(BASE, ray=ray)
    weights, expected = [], plain[2]
    with RayRun(config, tmp_path) as found:
        run = Controller(config, tmp_path, TINY, found.engines, crew=found.crew)
        asyncio.run(run.run())
        weights.append(run.crew.weights())
        assert len({facts.pid for facts in found.crew.facts}) == 2
    assert difference(weights[0], expected) <= 1e-6
    for ours, theirs in zip(metrics(tmp_path), metrics(plain[0]), strict=True):
        for key in ("loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-7)
        assert (ours["tokens"], ours["reward_mean"]) == (theirs["tokens"], theirs["reward_mean"])


def test_divided_weights_train_as_whole_ones(tmp_path):
    config = dataclasses.replace(BASE, method="full", steps=2)
    directory = tmp_path / "plain"
    with Engine(TINY, page_size=4, num_threads=1, memory_mb=64) as engine:
        run = Controller(config, directory, TINY, engine)
        asyncio.run(run.run())
        expected = run.crew.weights()
    ray = dataclasses.replace(TWO, trainers=2, parallel="sharded")
    config = dataclasses.replace(config, ray=ray)
    with RayRun(config, tmp_path / "ray") as found:
        run = Controller(config, tmp_path / "ray", TINY, found.engines, crew=found.crew)
        asyncio.run(run.run())
        weights = run.crew.weights()
    assert weights.keys() == expected.keys()
    moved = max(float((expected[n] - TINY.weights[n]).abs().max()) for n in weights)
    differ = max(float((weights[n] - expected[n]).abs().max()) for n in weights)
    assert moved > 1e-4 and differ <= 1e-5  # Adam divides by moments that are nearly 0
    for ours, theirs in zip(metrics(tmp_path / "ray"), metrics(directory), strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("way", ["publish", "broadcast"])
def test_an_engine_that_dies_amid_a_step_costs_no_row(tmp_path, plain, way):
    config = dataclasses.replace(BASE, ray=TWO, sync=SyncConfig(way=way))
    killed = []

    def watch(ray):
        def wait_and_kill():
            replica = ray.engines._replicas[1]
            while ray.engines._flights.on(1) == 0:
                time.sleep(0.0005)
            killed.append((replica.facts.pid, ray.engines._flights.on(1)))
            os.kill(replica.facts.pid, signal.SIGKILL)

        threading.Thread(target=wait_and_kill, daemon=True).start()

    fingerprint = on_ray(tmp_path, config, act=watch)
    assert killed and killed[0][1] > 0, "some requests were in flight there"
    each_row_once(tmp_path, config)
    assert journal(tmp_path) == journal(plain[0]) and fingerprint == plain[1]


def test_a_worker_that_dies_amid_a_step_costs_no_row(tmp_path):
    ray = dataclasses.replace(TWO, workers=2)
    config = dataclasses.replace(BASE, ray=ray)
    found = []

    def watch(ray):
        workers = ray.players[0]
        found.append(workers)

        def wait_and_kill():
            pid = workers.members[1].pid
            while workers.busy[1] == 0:
                time.sleep(0.0005)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=wait_and_kill, daemon=True).start()

    on_ray(tmp_path, config, act=watch)
    assert found[0].num_requeued > 0, "some episodes were played there"
    each_row_once(tmp_path, config)
    requeued = [
        rollout.metadata["requeued"]
        for _, rollout in Journal(tmp_path / "rollouts.jsonl").read()
        if "requeued" in rollout.metadata
    ]
    assert sum(map(len, requeued)) == found[0].num_requeued


def test_a_lost_rank_ends_the_step_and_the_run_resumes(tmp_path):
    ray = dataclasses.replace(TWO, engines=1, trainers=2)
    config = dataclasses.replace(BASE, ray=ray, steps=4)
    whole = on_ray(tmp_path / "whole", config)

    def kill(ray, report):
        if report.step == 1:
            os.kill(ray.crew.facts[1].pid, signal.SIGKILL)

    began = time.monotonic()
    with pytest.raises(TrainingError, match="trainer rank 1 of 2 is gone"):
        on_ray(tmp_path / "cut", config, on_step=kill)
    assert time.monotonic() - began < config.ray.collective_timeout_s / 2, "no timeout was spent"
    assert on_ray(tmp_path / "cut", config) == whole
    assert [record["step"] for record in metrics(tmp_path / "cut")] == [0, 1, 2, 3]
    each_row_once(tmp_path / "cut", config)


@pytest.mark.parametrize("schedule", ["one_step_off", "asynchronous"])
def test_other_schedules_have_the_bits_of_one_process_too(tmp_path, schedule):
    fresh = AsynchronyConfig(max_staleness=0)
    chosen = {"asynchrony": fresh} if schedule == "asynchronous" else {}
    config = dataclasses.replace(BASE, schedule=schedule, **chosen)
    expected = in_process(tmp_path / "plain", config).fingerprint()
    assert on_ray(tmp_path / "ray", dataclasses.replace(config, ray=TWO)) == expected
    assert journal(tmp_path / "ray") == journal(tmp_path / "plain")


def test_an_engine_that_dies_under_stale_rollouts_costs_no_row(tmp_path):
    stale = AsynchronyConfig(max_staleness=2)
    config = dataclasses.replace(BASE, schedule="asynchronous", asynchrony=stale, steps=6, ray=TWO)

    def kill(ray, report):
        if report.step == 1:
            os.kill(ray.engines._replicas[1].facts.pid, signal.SIGKILL)

    fingerprint = on_ray(tmp_path, config, on_step=kill)
    again = dataclasses.replace(BASE, steps=6, replay=str(tmp_path))
    assert in_process(tmp_path / "again", again).fingerprint() == fingerprint
    assert [record["step"] for record in metrics(tmp_path)] == list(range(config.steps))
    assert all(record["num_failed"] == 0 for record in metrics(tmp_path))
    rows = [(group, index) for _, group, index, _ in journal(tmp_path)]
    assert len(rows) == len(set(rows)) == 6 * 2 * 4


def test_a_cluster_of_two_nodes_is_used_and_left_as_it_was(tmp_path, plain):
    """Two nodes of Ray on this machine; each bundle has room on one of them only."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=2)
        settings = dataclasses.replace(TWO, address=nodes.address, nodes="spread")
        config = dataclasses.replace(BASE, ray=settings)
        assert on_ray(tmp_path, config) == plain[1]
        assert not ray.is_initialized() and journal(tmp_path) == journal(plain[0])
        ray.init(address=nodes.address, log_to_driver=False)
        assert len(ray.nodes()) == 2 and ray.cluster_resources()["CPU"] == 3
        ray.shutdown()
    finally:
        nodes.shutdown()
