"""What operators change while requests run: settings, and a new version of an adapter in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model, save_peft
from evolute.server import create_app, serve_in_thread
from evolute.testing import until

ENDLESS = {"max_new_tokens": 3000, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("tiny", num_threads=1, memory_mb=16) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[httpx.Client]:
    with (
        serve_in_thread(create_app(engine, served_names=["tiny"])) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        yield client


def change(client: httpx.Client, **settings: Any) -> httpx.Response:
    return client.post("/set_internal_state", json={"server_args": settings})


def test_settings_are_in_force_at_once_and_shown(client: httpx.Client, engine: Engine) -> None:
    answer = change(client, policy="vtc", max_running=3, tenant_weights=["alice=2"])
    assert answer.status_code == 200 and answer.json()["updated"] is True
    assert answer.json()["server_args"]["tenant_weights"] == ["alice=2"]
    assert (engine.config.policy, engine.config.max_running) == ("vtc", 3)
    assert client.get("/server_info").json()["policy"] == "vtc"
    change(client, policy="dlpm", max_running=64, tenant_weights=[])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "empty"),
        ({"policy": "lpn"}, "lpn"),
        ({"polcy": "lpm"}, "Did you mean"),
        ({"page_size": 8}, "cannot change while running"),
        ({"token_budget": 0}, "at least 1"),
        ({"token_budget": "many"}, "int"),
        ({"self": 1}, "no setting"),
        ({"ability": 1}, "no setting"),
        ({"policy": "fcfs", "tenant_weights": ["a=2"]}, "knows no tenants"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    client: httpx.Client, engine: Engine, settings: Any, told: str
) -> None:
    before = engine.config
    answer = change(client, **settings)
    assert answer.status_code == 400 and told in answer.text
    assert engine.config == before


def test_a_new_version_takes_the_place_of_one_in_use(
    client: httpx.Client, engine: Engine, tmp_path: Path
) -> None:
    for rank in (2, 4):
        weights = LoraWeights.init(LoraConfig(rank), load_model("tiny").config, rank)
        for _, b in weights.tensors.values():
            b.normal_(std=0.1)
        save_peft(weights, tmp_path / f"r{rank}", "tiny")
    load = {"lora_name": "mine", "lora_path": str(tmp_path / "r2")}
    assert client.post("/load_lora_adapter", json=load).status_code == 200
    box: list[httpx.Response] = []
    body = {"text": "x", "lora_path": "mine", "sampling_params": ENDLESS, "rid": "job"}
    thread = threading.Thread(target=lambda: box.append(client.post("/generate", json=body)))
    thread.start()
    until(lambda: engine.stats().running == 1)
    first = engine.adapters()["mine"]
    load = {"lora_name": "mine", "lora_path": str(tmp_path / "r4")}
    refused = client.post("/load_lora_adapter", json=load)
    assert refused.status_code == 400 and "load_inplace=true" in refused.text
    answer = client.post("/load_lora_adapter", json=load | {"load_inplace": True})
    assert answer.json()["loaded_adapters"] == {"mine": str(tmp_path / "r4")}
    assert engine.adapters()["mine"].fingerprint != first.fingerprint
    assert engine.stats().running == 1, "it goes on with the new one"
    client.post("/abort_request", json={"rid": "job"})
    thread.join(timeout=60)
    assert box[0].json()["meta_info"]["finish_reason"]["type"] == "abort"
    assert client.post("/unload_lora_adapter", json={"lora_name": "mine"}).status_code == 200
