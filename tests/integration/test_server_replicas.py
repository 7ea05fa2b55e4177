"""Two engines as Ray actors behind one server answer as one engine does, also when one dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import httpx
import pytest
import torch

from evolute.engine import Engine
from evolute.engine.replicas import ReplicaConfig, ReplicatedEngine
from evolute.engine.replicas.agreement import Call
from evolute.models import LoraConfig, LoraWeights, ModelWeights
from evolute.models.tiny import CONFIG, tiny_weights
from evolute.server import create_app, serve_in_thread
from evolute.types import BackendError, GenerateRequest, OutOfCapacity, RequestError, SamplingParams

SETTINGS = {"num_threads": 1, "memory_mb": 8, "precision": "float32", "adapter_host_mb": 1}
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
LONG = SamplingParams(temperature=0, max_new_tokens=3000, ignore_eos=True)
PROMPTS = ["hello", "hello world", "another start", "x" * 60, "hello again"]
PATIENCE_S = 120.0
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def fleet():
    with ReplicatedEngine("tiny", None, ReplicaConfig(count=2), **SETTINGS) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(fleet):
    server = serve_in_thread(create_app(fleet, served_names=["tiny"]))
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def one():
    with Engine("tiny", **SETTINGS) as engine:
        yield engine


def lora(seed, rank=4):
    adapter = LoraWeights.init(LoraConfig(rank=rank), CONFIG, seed)
    dice = torch.Generator().manual_seed(seed)
    for _, b in adapter.tensors.values():
        b.normal_(std=0.3, generator=dice)
    return adapter


def until(condition, what):
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, f"never: {what}"
        time.sleep(0.05)


def tokens(outputs):
    return [output.token_ids for output in outputs]


def routed(fleet):
    return [line.routed for line in fleet.stats().replicas]


def test_answers_are_those_of_one_engine(fleet, one):
    sampling = [GREEDY, SamplingParams(seed=3, n=2, max_new_tokens=9), GREEDY, GREEDY, GREEDY]
    ours, theirs = fleet.generate(PROMPTS, sampling), one.generate(PROMPTS, sampling)
    assert tokens(ours) == tokens(theirs)
    assert [o.text for o in ours] == [o.text for o in theirs]
    assert all(routed(fleet)), "both replicas took part"
    for ours_, theirs_ in zip(ours, theirs):
        assert ours_.logprobs == pytest.approx(theirs_.logprobs, abs=1e-4)


def test_errors_arrive_as_they_were(fleet):
    with pytest.raises(RequestError, match="4096"):
        fleet.generate("x" * 5000)
    with pytest.raises(RequestError, match="nobody"):
        fleet.generate("x", GREEDY, adapter="nobody")


def test_a_stream_comes_in_pieces_and_equals_the_answer(url, one):
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 12, "temperature": 0}
    pieces = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                pieces.append(json.loads(line[6:])["choices"][0]["text"])
    assert "".join(pieces) == one.generate("hello", GREEDY)[0].text and len(pieces) > 2


def test_who_leaves_frees_the_replica_and_an_abort_reaches_it(fleet, url):
    async def leave():
        stream = fleet.stream(GenerateRequest(tuple(b"leave"), LONG))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    until(lambda: fleet.stats().running == 0, "the replica stops what nobody hears")
    assert all(line.in_flight == 0 for line in fleet.stats().replicas)

    async def aborted():
        waiting = asyncio.create_task(fleet.agenerate(GenerateRequest(tuple(b"x"), LONG, id="it")))
        while not any(e.state == "running" for e in await asyncio.to_thread(fleet.explain, "it")):
            await asyncio.sleep(0.02)
        async with httpx.AsyncClient() as client:
            await client.post(f"{url}/abort_request", json={"rid": "it"})
        return await asyncio.wait_for(waiting, PATIENCE_S)

    assert asyncio.run(aborted())[0].finish_reason == "abort"
    assert fleet.recent()[0].finish_reason == "abort"


def test_adapters_are_at_all_replicas_or_at_none(fleet, one):
    fleet.load_adapter("a", lora(1))
    one.load_adapter("a", lora(1))
    expected = tokens(one.generate(PROMPTS, GREEDY, adapter="a"))
    assert tokens(fleet.generate(PROMPTS, GREEDY, adapter="a")) == expected
    assert expected != tokens(one.generate(PROMPTS, GREEDY))
    assert fleet.fingerprint("a") == one.fingerprint("a")
    ray, actors = fleet._cluster.ray, [replica.actor for replica in fleet._replicas]
    ray.get(actors[1].call.remote("load_adapter", "junk", lora(2, rank=90)))  # no room is left
    with pytest.raises(RequestError, match="replica 1"):
        fleet.load_adapter("big", lora(3, rank=64))
    with pytest.raises(RequestError, match="replica 1"):
        fleet.load_adapter("a", lora(3, rank=64))
    ray.get(actors[1].call.remote("unload_adapter", "junk"))
    for actor in actors:
        assert list(ray.get(actor.call.remote("adapters"))) == ["a"]
    assert tokens(fleet.generate(PROMPTS, GREEDY, adapter="a")) == expected


def test_an_adapter_in_use_at_one_replica_stays_at_all(fleet):
    async def unload_meanwhile():
        stream = fleet.stream(GenerateRequest(tuple(b"use"), LONG, adapter="a"))
        async for _ in stream:
            break
        with pytest.raises(RequestError, match="in use"):
            await asyncio.to_thread(fleet.unload_adapter, "a")
        await stream.aclose()

    asyncio.run(unload_meanwhile())
    for found in fleet._ask(Call("adapters")).values():
        assert list(found) == ["a"]


def test_weights_settings_and_pauses_are_of_all(fleet, one):
    fleet.load_weights(tiny_weights(seed=5), version=7)
    one.load_weights(tiny_weights(seed=5), version=7)
    ours = fleet.generate(PROMPTS, GREEDY)
    assert tokens(ours) == tokens(one.generate(PROMPTS, GREEDY))
    assert {output.weight_version for output in ours} == {7}
    with pytest.raises(RequestError):
        fleet.load_weights(ModelWeights({}), version=8)
    assert fleet.stats().weight_version == 7
    assert fleet.apply_settings(max_running=3).max_running == 3
    assert {load.places for load in fleet._router.loads.values()} == {3}
    with pytest.raises(RequestError, match="cannot change"):
        fleet.apply_settings(memory_mb=9)
    fleet.pause()
    assert fleet.heartbeat.is_paused
    until(lambda: all(r.heartbeat.is_paused for r in fleet._replicas), "both have paused")
    fleet.resume()
    assert fleet.generate("x", GREEDY)


def test_figures_are_of_all_and_of_each(fleet, url):
    fleet.generate(PROMPTS, GREEDY)
    stats = httpx.get(f"{url}/stats").json()
    assert len(stats["replicas"]) == 2
    made = [line["stats"]["counts"]["output_tokens"] for line in stats["replicas"]]
    assert sum(made) == stats["counts"]["output_tokens"] > 0
    assert stats["num_pages"] == sum(line["stats"]["num_pages"] for line in stats["replicas"])
    until(
        lambda: "evolute_engine_replicas_alive 2.0" in httpx.get(f"{url}/metrics").text, "two live"
    )
    text = httpx.get(f"{url}/metrics").text
    assert 'evolute_engine_replicas_routed_requests{replica="1"}' in text
    snapshot = fleet.snapshot()
    assert snapshot.memory.num_pages == stats["num_pages"] and snapshot.recent


def test_a_death_ends_streams_repeats_the_rest_and_is_mended(fleet, url, one):
    """Runs after those above: adapter "a" and weights of version 7 are what all agreed on."""
    pids = [line.pid for line in fleet.stats().replicas]

    def on_zero(ids):
        return [id for id in ids if fleet._flights.replica_of(id) == 0]

    async def go():
        streams = {f"s{i}": fleet.stream(request(f"s{i}", LONG)) for i in range(4)}
        for stream in streams.values():
            await anext(stream)
        await asyncio.to_thread(fleet.pause)  # nothing is told of those that come now
        whole = {f"w{i}": fleet.agenerate(request(f"w{i}", GREEDY)) for i in range(4)}
        tasks = [asyncio.create_task(work) for work in whole.values()]
        await asyncio.sleep(0)
        doomed = on_zero(streams), on_zero(whole)
        os.kill(pids[0], signal.SIGKILL)
        for id in doomed[0]:
            with pytest.raises(BackendError, match="replica 0"):
                await read_all(streams[id])
        for stream in streams.values():
            await stream.aclose()
        await asyncio.to_thread(fleet.resume)
        return doomed, await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)

    doomed, outputs = asyncio.run(go())
    assert all(doomed), "the dead replica had both kinds"
    prompts = [f"w{i}" for i in range(4)]
    assert tokens(group[0] for group in outputs) == tokens(one.generate(prompts, GREEDY))
    until(lambda: not fleet.complaint and all(r.is_alive for r in fleet._replicas), "it is back")
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    lines = fleet.stats().replicas
    assert lines[0].restarts == 1 and lines[0].pid != pids[0] and lines[0].why
    for found in fleet._ask(Call("adapters")).values():
        assert list(found) == ["a"]
    expected = tokens(one.generate(PROMPTS * 2, GREEDY, adapter="a"))
    assert tokens(fleet.generate(PROMPTS * 2, GREEDY, adapter="a")) == expected
    assert all(routed(fleet))


async def read_all(stream):
    async for _ in stream:
        pass


def request(id, sampling):
    return GenerateRequest(tuple(id.encode()), sampling, id=id)


def test_without_a_living_replica_requests_are_refused_until_there_is_one(fleet, url):
    until(lambda: not fleet.complaint, "both live")
    for line in fleet.stats().replicas:
        os.kill(line.pid, signal.SIGKILL)
    until(lambda: not fleet.is_alive, "both are gone")
    health = httpx.get(f"{url}/health")
    assert health.status_code == 503 and "2 of 2 replicas" in health.json()["reason"]
    with pytest.raises(OutOfCapacity, match="no replica lives"):
        fleet.generate("x", GREEDY)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    assert httpx.post(f"{url}/v1/completions", json=body).status_code == 503
    until(lambda: fleet.is_alive, "one is back")
    until(lambda: httpx.post(f"{url}/v1/completions", json=body).status_code == 200, "it answers")
