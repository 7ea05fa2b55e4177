"""Weights to engines in other processes by each way, each proved; one that got others is found."""

import multiprocessing
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from evolute.engine import Engine
from evolute.models import LoraConfig, load_model
from evolute.train import Policy
from evolute.train.sync import (
    WAYS,
    EngineHolder,
    attend,
    publish_remotely,
    release,
)
from evolute.types import TrainingError

CANARY = (1, 5, 9, 33, 7)
LORA = LoraConfig(rank=4)
NUM_ENGINES = 2


def ends(way, place):
    """Arguments of sender and receiver."""
    if way == "shared_memory":
        return (place / "weights",), (place / "weights",)
    return ((), ()) if way == "broadcast" else ((place,), (place,))


def join(rank, place):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place}/group",
        rank=rank,
        world_size=NUM_ENGINES + 1,
        timeout=timedelta(seconds=60),
    )


class Deaf(EngineHolder):
    """Says that it loaded and did not: the failure that looks like staleness."""

    def load(self, weights, version):
        if version > 1:
            return weights.fingerprint()
        return super().load(weights, version)


class Lost(EngineHolder):
    """Went on with what it had, and says so."""

    def load(self, weights, version):
        held = super().load(weights, version) if version <= 1 else None
        return held or self.engine.fingerprint(self.name)


HOLDERS = {"whole": EngineHolder, "deaf": Deaf, "lost": Lost}


def engine_process(rank, way, place, channel, holder):
    torch.set_num_threads(1)
    if way == "broadcast":
        join(rank, place)
    receiver = WAYS[way][1](*ends(way, place)[1])
    with Engine(load_model("tiny"), page_size=4) as engine:
        attend(channel, receiver, HOLDERS[holder](engine, "policy"))
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def engines(request, tmp_path):
    """(way, channels, sender) with as many processes as holders are named."""
    way, holders = request.param
    context = multiprocessing.get_context("spawn")
    channels, processes = [], []
    for rank, holder in enumerate(holders, 1):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=engine_process, args=(rank, way, tmp_path, theirs, holder), daemon=True
        )
        process.start()
        theirs.close()
        channels.append(ours), processes.append(process)
    if way == "broadcast":
        join(0, tmp_path)
    yield way, channels, WAYS[way][0](*ends(way, tmp_path)[0]), processes
    release(channels)
    for process in processes:
        process.join(30)
        process.kill()
    if dist.is_initialized():
        dist.destroy_process_group()


def moved(policy):
    with torch.no_grad():
        for number, tensor in enumerate(policy.parameters()):
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="gloo and /dev/shm"),
]


@pytest.mark.parametrize(
    "engines", [(way, ("whole",) * NUM_ENGINES) for way in WAYS], ids=list(WAYS), indirect=True
)
def test_each_way_is_proved_by_each_engine(engines):
    _, channels, sender, _ = engines
    policy = Policy(load_model("tiny"), LORA)
    for version in range(1, 4):
        proofs = publish_remotely(channels, sender, policy, version, CANARY)
        assert [p.fingerprint for p in proofs] == [policy.lora.fingerprint()] * NUM_ENGINES
        assert max(p.canary_abs_diff for p in proofs) < 1e-3
        moved(policy)


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        (("shared_memory", ("whole", "deaf")), "engine 1.*canary"),
        (("shared_memory", ("whole", "lost")), "engine 1.*did not arrive"),
    ],
    indirect=["engines"],
)
def test_weights_that_did_not_arrive_are_found(engines, message):
    _, channels, sender, _ = engines
    policy = Policy(load_model("tiny"), LORA)
    publish_remotely(channels, sender, policy, 1, CANARY)
    moved(policy)
    with pytest.raises(TrainingError, match=message):
        publish_remotely(channels, sender, policy, 2, CANARY)


@pytest.mark.parametrize("engines", [("delta", ("whole", "whole"))], indirect=True)
def test_an_engine_that_died_is_told(engines):
    _, channels, sender, processes = engines
    policy = Policy(load_model("tiny"), LORA)
    publish_remotely(channels, sender, policy, 1, CANARY)
    processes[1].kill()
    processes[1].join(30)
    moved(policy)
    with pytest.raises(TrainingError, match="engine 1"):
        publish_remotely(channels, sender, policy, 2, CANARY)
