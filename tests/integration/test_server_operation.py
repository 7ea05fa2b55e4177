"""Keys, tenants, limits, draining and connections, over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from evolute.engine import Engine
from evolute.server import Limits, Tenants, connections, create_app, limits, serve_in_thread
from evolute.server import serving as serving_module
from evolute.testing import ScriptedBackend, until
from evolute.types import ConfigError

LONG = {"text": "x", "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}
SHORT = {"text": "x", "sampling_params": {"max_new_tokens": 1}}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("tiny", num_threads=1, memory_mb=64) as engine:
        yield engine


@contextlib.contextmanager
def serving(engine: Any, **settings: Any) -> Iterator[str]:
    most = settings.pop("max_connections", 4096)
    app = create_app(engine, served_names=["tiny"], **settings)
    with serve_in_thread(app, max_connections=most) as server:
        yield server.url


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# -- keys and tenants ----------------------------------------------------------------


def test_the_tenant_is_the_keys_else_the_users_else_the_adapters() -> None:
    backend = ScriptedBackend(adapters=["lora"])
    tenants = Tenants.of(["plain", "alice=secret"])
    with serving(backend, tenants=tenants) as url:
        for key, body, tenant in [
            ("secret", {"user": "mallory"}, "alice"),
            ("plain", {"user": "u", "lora_path": "lora"}, "u"),
            ("plain", {"lora_path": "lora"}, "lora"),
            ("plain", {}, "default"),
        ]:
            asked = httpx.post(f"{url}/generate", json=SHORT | body, headers=bearer(key))
            assert asked.status_code == 200, asked.text
            assert backend.requests[-1].tenant == tenant
        chat = {"prompt": "x", "user": "mallory"}
        httpx.post(f"{url}/v1/completions", json=chat, headers=bearer("secret"))
        assert backend.requests[-1].tenant == "alice"
        by_name = {"x-api-key": "secret"}
        assert httpx.post(f"{url}/generate", json=SHORT, headers=by_name).status_code == 200
        for headers in ({}, bearer("wrong"), {"Authorization": "Basic secret"}):
            assert httpx.post(f"{url}/generate", json=SHORT, headers=headers).status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401


def test_what_concerns_everybody_needs_the_admin_key(engine: Engine) -> None:
    tenants = Tenants.of(["alice=secret"], admin_key="root")
    with serving(engine, tenants=tenants) as url:
        for path, body in [
            ("/flush_cache", {}),
            ("/pause_generation", {}),
            ("/continue_generation", {}),
            ("/load_lora_adapter", {"lora_name": "a", "lora_path": "b"}),
            ("/unload_lora_adapter", {"lora_name": "a"}),
            ("/update_weights_from_disk", {"model_path": "tiny"}),
            ("/update_weights_from_tensor", {"serialized_named_tensors": []}),
            ("/get_weights_by_name", {"name": "norm.weight"}),
            ("/abort_request", {"abort_all": True}),
        ]:
            answer = httpx.post(f"{url}{path}", json=body, headers=bearer("secret"))
            assert answer.status_code == 401, path
            answer = httpx.post(f"{url}{path}", json=body, headers=bearer("root"))
            assert answer.status_code in (200, 400), path
        one = httpx.post(f"{url}/abort_request", json={"rid": "x"}, headers=bearer("secret"))
        assert one.status_code == 200


def test_a_tenants_limits_are_its_own(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text(
        '[a]\nkeys = ["ka"]\nmax_in_flight = 1\n[b]\nkeys = ["kb"]\nrequests_per_minute = 2\n'
    )
    with serving(engine, tenants=Tenants.of(file=file), limits=Limits(5, 0)) as url:
        url += "/generate"
        threading.Thread(
            target=lambda: httpx.post(url, json=LONG, headers=bearer("ka"), timeout=60)
        ).start()
        until(lambda: engine.stats().running == 1)
        full = httpx.post(url, json=SHORT, headers=bearer("ka"))
        assert full.status_code == 429
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert int(full.headers["retry-after"]) >= 1
        assert [
            httpx.post(url, json=SHORT, headers=bearer("kb")).status_code for _ in range(3)
        ] == [
            *(200, 200, 429),
        ]
        engine.abort_all()
        until(lambda: engine.stats().running == 0)
        until(lambda: httpx.post(url, json=SHORT, headers=bearer("ka")).status_code == 200)
        bad = SHORT | {"sampling_params": {"top_p": 7}}
        for _ in range(3):  # what is refused takes no place
            assert httpx.post(url, json=bad, headers=bearer("ka")).status_code == 400


def test_equal_ids_of_two_tenants_are_two_requests(engine: Engine) -> None:
    with serving(engine, tenants=Tenants.of(["a=ka", "b=kb"])) as url:
        box: dict[str, Any] = {}

        def run(key: str) -> None:
            body = LONG | {"rid": "job"}
            answer = httpx.post(f"{url}/generate", json=body, headers=bearer(key), timeout=60)
            box[key] = answer.json()["meta_info"]

        threads = [threading.Thread(target=run, args=(key,)) for key in ("ka", "kb")]
        for thread in threads:
            thread.start()
        until(lambda: engine.stats().running == 2)
        httpx.post(f"{url}/abort_request", json={"rid": "job"}, headers=bearer("ka"))
        until(lambda: engine.stats().running == 1)
        threads[0].join(timeout=20)
        assert (box["ka"]["id"], box["ka"]["finish_reason"]["type"]) == ("job", "abort")
        assert "kb" not in box
        again = httpx.post(f"{url}/generate", json=SHORT | {"rid": "job"}, headers=bearer("kb"))
        assert again.status_code == 400 and "in flight" in again.text
        engine.abort_all()
        threads[1].join(timeout=20)


# -- connections ---------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    assert where.hostname and where.port
    return socket.create_connection((where.hostname, where.port), timeout=10)


def request_of(body: bytes) -> bytes:
    head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def closes(one: socket.socket, seconds: float) -> bool:
    """Whether the server ends the connection in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([one], [], [], 0.05)[0]:
            try:
                if not one.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False


def test_silent_connections_are_closed_and_slow_answers_are_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = connections.connection_class
    monkeypatch.setattr(serving_module, "connection_class", lambda most: make(most, head_s=0.3))
    with serving(engine) as url:
        half = [connect(url) for _ in range(20)]
        for one in half[10:]:
            one.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-")
        engine.pause()
        body = json.dumps(SHORT).encode()
        slow = connect(url)
        slow.sendall(request_of(body))
        assert all(closes(one, 60) for one in half)
        engine.resume()
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        for one in (*half, slow):
            one.close()


def test_one_connection_too_many_is_told_so_and_the_others_go_on(engine: Engine) -> None:
    with serving(engine, max_connections=8) as url:
        held = [connect(url) for _ in range(8)]
        for one in held:  # an answer shows that it was taken in
            one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            told = b""
            while not told.endswith(b"}"):  # head and body may come apart
                told += one.recv(65536)
            assert told.startswith(b"HTTP/1.1 200")
        late = connect(url)
        answer = late.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer
        assert b"8 connections are open" in answer
        held[0].sendall(request_of(json.dumps(SHORT).encode()))
        assert held[0].recv(65536).startswith(b"HTTP/1.1 200")
        for one in (*held, late):
            one.close()
        until(lambda: httpx.get(f"{url}/health").status_code == 200)


def test_a_body_that_stops_coming_is_given_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.3)
    with serving(engine) as url, contextlib.closing(connect(url)) as one:
        one.sendall(request_of(b'{"text": "a' + bytes(500))[:-500])
        assert one.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_reader_who_takes_nothing_is_dropped_and_its_request_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEND_S", 0.5)
    with serving(engine) as url:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        where = urlsplit(url)
        one.connect((where.hostname, where.port))
        body = json.dumps(LONG | {"text": ["x"] * 8, "stream": True, "return_logprob": True})
        one.sendall(request_of(body.encode()))
        until(lambda: engine.stats().running == 8)
        until(lambda: engine.stats().running == 0)
        assert engine.stats().counts.output_tokens < 8 * 4000
        assert httpx.post(f"{url}/generate", json=SHORT).status_code == 200
        one.close()
    engine.check()


def test_the_limit_of_open_files_is_raised_or_the_connections_are_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits_of, told = {"now": (256, 5000)}, []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits_of["now"])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, pair: told.append(pair))
    assert connections.make_room(4096) == 4096 and told == [(4352, 5000)]
    limits_of["now"] = (256, 1024)
    assert connections.make_room(4096) == 512 and told[1:] == [(1024, 1024)]
    limits_of["now"] = (8192, 8192)
    assert connections.make_room(4096) == 4096 and len(told) == 2


# -- draining ------------------------------------------------------------------------


def launch(*options: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "evolute.cli.main", "serve", "--model", "tiny", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("ready "), process.communicate(timeout=20)
    return process, line.split()[1]


def test_at_sigterm_what_runs_comes_to_its_end_and_what_is_new_is_sent_away() -> None:
    process, url = launch("--api-key", "team=k", "--drain-s", "30", "--set", "num_threads=1")
    try:
        box: list[httpx.Response] = []
        body = LONG | {"stream": False}

        def run() -> None:
            box.append(httpx.post(f"{url}/generate", json=body, headers=bearer("k"), timeout=60))

        client = httpx.Client(base_url=url, headers=bearer("k"))
        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: client.get("/stats").json()["running"] == 1)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json()["status"] == "draining"
        refused = client.post("/generate", json=SHORT)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        thread.join(timeout=60)
        assert box[0].status_code == 200
        assert box[0].json()["meta_info"]["completion_tokens"] == 4000
        client.close()
        process.wait(timeout=20)
    finally:
        process.kill()
        process.communicate()


def test_a_drain_ends_when_its_time_is_up_and_an_idle_server_at_once() -> None:
    process, url = launch("--drain-s", "1")
    try:
        httpx.post(f"{url}/pause_generation", json={"mode": "in_place"})
        threading.Thread(target=_quietly, args=(url,), daemon=True).start()
        until(lambda: httpx.get(f"{url}/stats").json()["waiting"] == 1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert time.monotonic() - began >= 1
    finally:
        process.kill()
        process.communicate()
    process, url = launch("--drain-s", "600")
    try:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=100)
    finally:
        process.kill()
        process.communicate()


def _quietly(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/generate", json=SHORT, timeout=60)


def test_a_tenants_file_s_weights_reach_the_policy_or_are_refused() -> None:
    from evolute.cli.serve_worker import _set_weights

    with Engine("tiny", memory_mb=8, tenant_weights=("b=3",)) as engine:
        _set_weights(engine, {"a": 2.0, "c": 1.0})
        assert engine.config.tenant_weights == ("b=3", "a=2.0")
    with Engine("tiny", memory_mb=8, policy="fcfs") as engine:
        _set_weights(engine, {"c": 1.0})
        with pytest.raises(ConfigError, match="knows no tenants"):
            _set_weights(engine, {"a": 2.0})
