"""SIGKILL of the serving process in the middle of a stream: 503 until it serves again, with the
adapters, the weights' name and the settings that it had."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from evolute.models import LoraConfig, LoraWeights, load_model, save_peft

SLOW = {"model": "default", "prompt": "x", "max_tokens": 4000, "ignore_eos": True}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    weights = LoraWeights.init(LoraConfig(2), load_model("tiny").config, 0)
    save_peft(weights, tmp_path / "a", "tiny")
    return tmp_path / "a"


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    words = [sys.executable, "-m", "evolute.cli.main", "serve", "--model", "tiny", "--port", "0"]
    process = subprocess.Popen(
        [*words, "--set", "num_threads=1", "--set", "memory_mb=16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("ready ")
        fresh = httpx.Limits(max_keepalive_connections=0)  # an idle one would die with the server
        url = line.split()[1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False, limits=fresh) as client:
            yield process, client
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)
    finally:
        process.kill()
        process.communicate(timeout=20)


def child_of(pid: int) -> int:
    (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found)


def statuses(client: httpx.Client, seconds: float = 90) -> list[int]:
    """Of requests one after the other until one is served. A refused connection is an error."""
    found: list[int] = []
    end = time.monotonic() + seconds
    while not found or found[-1] != 200:
        assert time.monotonic() < end
        answer = client.post("/v1/completions", json=SLOW | {"max_tokens": 1})
        found.append(answer.status_code)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "restarting"
            time.sleep(0.02)
    return found


def stream_until_killed(client: httpx.Client, pid: int) -> None:
    with client.stream("POST", "/v1/completions", json=SLOW | {"stream": True}) as stream:
        for count, line in enumerate(stream.iter_lines()):
            if count == 8:
                assert line.startswith("data:") or not line
                os.kill(pid, signal.SIGKILL)


def test_a_killed_server_comes_back_as_it_was(
    server: tuple[subprocess.Popen[str], httpx.Client], adapter: Path
) -> None:
    process, client = server
    load = {"lora_name": "mine", "lora_path": str(adapter)}
    assert client.post("/load_lora_adapter", json=load).status_code == 200
    update = {"model_path": "tiny", "weight_version": "step-7"}
    assert client.post("/update_weights_from_disk", json=update).status_code == 200
    change = {"server_args": {"policy": "lpm"}}
    assert client.post("/set_internal_state", json=change).status_code == 200
    child = child_of(process.pid)
    with pytest.raises(httpx.TransportError):
        stream_until_killed(client, child)
    found = statuses(client)
    assert found[0] == 503 and set(found) == {503, 200}
    assert child_of(process.pid) != child
    answer = client.post("/v1/completions", json=SLOW | {"model": "mine", "max_tokens": 1})
    assert answer.status_code == 200, "the adapter is there"
    info = client.get("/server_info").json()
    assert info["policy"] == "lpm"
    assert client.get("/model_info").json()["weight_version"] == "step-7"
    assert "evolute_server_restarts 1.0" in client.get("/metrics").text
    assert client.post("/unload_lora_adapter", json={"lora_name": "mine"}).status_code == 200
    os.kill(child_of(process.pid), signal.SIGKILL)
    statuses(client)
    answer = client.post("/v1/completions", json=SLOW | {"model": "mine", "max_tokens": 1})
    assert answer.status_code == 404, "unloaded stays unloaded"
