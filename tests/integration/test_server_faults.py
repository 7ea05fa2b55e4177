"""Bad input and bad clients: no 5xx that is our fault, alive afterwards, no page lost."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
from evolute.testing import until
from evolute.types import BadGrammar

SHORT = {"text": "x", "sampling_params": {"max_new_tokens": 1}}
JSON = {"Content-Type": "application/json"}
POSTS = [
    *("/generate", "/tokenize", "/detokenize", "/abort_request", "/pause_generation"),
    *("/load_lora_adapter", "/unload_lora_adapter", "/update_weights_from_disk"),
    *("/update_weights_from_tensor", "/get_weights_by_name", "/v1/completions"),
    "/v1/chat/completions",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("tiny", num_threads=1, memory_mb=16, page_size=4) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    server = serve_in_thread(create_app(engine, served_names=["tiny"]))
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _alive_afterwards(client: httpx.Client, engine: Engine) -> Iterator[None]:
    yield
    client.post("/continue_generation")
    until(lambda: not engine.stats().running + engine.stats().waiting)
    engine.check()
    stats = engine.stats()
    assert stats.free_pages + stats.cached_pages == stats.num_pages
    assert client.get("/health").status_code == 200
    assert client.post("/generate", json=SHORT).status_code == 200


# -- bodies --------------------------------------------------------------------------

RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"{'text': 1}",
    b'{"text": "\xff\xfe"}',
    b'{"text": "\\ud800"}',
    b'{"text": "a", "text": {"b": NaN}}',
    b'{"text": "a", "sampling_params": {"temperature": 1e400}}',
    b'{"text": "a", "sampling_params": {"max_new_tokens": ' + b"9" * 5000 + b"}}",
    b"[" * 100_000,
    b'{"text": ' * 50_000,
    bytes(range(256)),
]


@pytest.mark.parametrize("path", POSTS)
def test_bodies_that_are_no_json_object_are_400(client: httpx.Client, path: str) -> None:
    for raw in RAW:
        answer = client.post(path, content=raw, headers=JSON)
        assert answer.status_code == 400 or (raw == b"" and answer.status_code < 500), (path, raw)
    answer = client.post(path, content=b"text=a", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert client.delete(path).status_code == 405


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, -(2**31), 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "\x00", "\U0001f600", "a" * 2000, "default", "tiny", "(", "[a-z]+"]),
    st.lists(st.integers(-2, 300), max_size=4),
    st.lists(st.sampled_from(["a", "", "b"]), max_size=3),
    st.lists(st.lists(st.integers(0, 258), max_size=2), max_size=2),
    st.dictionaries(st.sampled_from(["1", "65", "x", "type"]), st.floats(-9, 9), max_size=2),
)
FIELDS = [
    *("text", "input_ids", "sampling_params", "return_logprob", "logprob_start_len", "rid"),
    *("top_logprobs_num", "token_ids_logprob", "return_text_in_logprobs", "stream", "lora_path"),
    *("priority", "extra_key", "cache_salt", "user", "image_data", "nonsense"),
]
SAMPLING = [
    *("min_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p", "top_k"),
    *("min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "json_schema"),
    *("regex", "ebnf", "ignore_eos", "skip_special_tokens", "no_stop_trim", "logit_bias"),
    *("sampling_seed", "stream_interval", "beam_width", "nonsense"),
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    st.dictionaries(st.sampled_from(SAMPLING), VALUES, max_size=3),
    st.integers(0, 3),
    st.booleans(),
)
def test_no_field_of_generate_at_any_value_is_a_fault_of_ours(
    client: httpx.Client, fields: Any, sampling: Any, num_tokens: int, is_plain: bool
) -> None:
    body = {"sampling_params": sampling | {"max_new_tokens": num_tokens}} | fields
    if is_plain:
        body = {"text": "ab"} | body
    answer = client.post("/generate", json=body)
    assert answer.status_code in (200, 400, 404, 501), (body, answer.text)
    assert answer.status_code != 200 or '"error":{' not in answer.text, (body, answer.text)


OTHERS = [
    *("prompt", "messages", "tokens", "model", "rid", "abort_all", "mode", "lora_name", "name"),
    *("lora_path", "model_path", "serialized_named_tensors", "truncate_size", "weight_version"),
    *("flush_cache", "abort_all_requests", "skip_special_tokens", "add_special_tokens", "pinned"),
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(POSTS[1:10]), st.dictionaries(st.sampled_from(OTHERS), VALUES, max_size=4))
def test_no_field_of_an_operation_at_any_value_is_a_fault_of_ours(
    client: httpx.Client, path: str, body: Any
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (200, 400, 404), (path, body, answer.text)
    client.post("/continue_generation")


def test_a_body_over_the_limit_is_413(client: httpx.Client) -> None:
    body = json.dumps({"text": "x" * (33 << 20)}).encode()
    with contextlib.suppress(httpx.WriteError):  # the server need not read all of it
        assert client.post("/generate", content=body, headers=JSON).status_code == 413


def test_a_prompt_over_the_context_says_both_numbers(client: httpx.Client) -> None:
    for stream in (False, True):
        answer = client.post("/generate", json={"text": "x" * 5000, "stream": stream})
        assert answer.status_code == 400
        assert "5000 tokens" in answer.text and "4096" in answer.text


def test_a_very_long_text_is_refused_and_holds_nobody_up(client: httpx.Client, url: str) -> None:
    box: list[httpx.Response] = []
    body = {"text": "lorem ipsum " * 500_000}
    thread = threading.Thread(
        target=lambda: box.append(httpx.post(f"{url}/generate", json=body, timeout=60))
    )
    thread.start()
    while not box:
        assert client.post("/generate", json=SHORT).status_code == 200
    thread.join()
    assert box[0].status_code == 400 and "tokens, but the model holds 4096" in box[0].text


# -- patterns that blow up -----------------------------------------------------------

BOMBS: list[dict[str, Any]] = [
    {"regex": "(a+)+$b"},
    {"regex": "((((a{1,100}){1,100}){1,100}){1,100})b"},
    {"regex": "(a|aa)*" * 60},
    {"regex": "[a-z]{1,99999}x"},
    {"regex": "(?:(?:(?:.*)*)*)*x"},
    {"json_schema": {"type": "string", "pattern": "^(a+)+$"}},
    {"json_schema": {"$ref": "#"}},
    {"json_schema": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}},
    {"ebnf": "root ::= root root | root"},
    {"ebnf": 'root ::= ("a"{1,9999}){1,9999}'},
    {"stop_regex": "(a+)+b"},
    {"stop_regex": ["(.*)*.*x"] * 32},
    {"stop_regex": "(((a{200}){200}){200}){200}"},
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda b: str(b)[:40])
def test_a_pattern_that_blows_up_is_bounded(client: httpx.Client, bomb: dict[str, Any]) -> None:
    params = {"max_new_tokens": 4, "temperature": 0} | bomb
    answer = client.post("/generate", json={"text": "aaaa", "sampling_params": params})
    assert answer.status_code in (200, 400), answer.text


def test_a_grammar_that_does_not_end_compiling_is_refused_while_others_go_on(
    client: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, ends = engine._core.grammars, threading.Event()
    monkeypatch.setattr(compiler, "_timeout_s", 0.3)
    build = compiler._build

    def hangs(kind: str, text: str) -> Any:
        if text == "hang":
            ends.wait(20)
            raise BadGrammar("late")
        return build(kind, text)

    monkeypatch.setattr(compiler, "_build", hangs)
    answer = client.post("/generate", json={"text": "a", "sampling_params": {"regex": "hang"}})
    assert answer.status_code == 400
    assert "took more than 0.3 s" in answer.text
    ends.set()


# -- clients -------------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    assert where.hostname and where.port
    return socket.create_connection((where.hostname, where.port), timeout=20)


def request_of(body: Any) -> bytes:
    raw = json.dumps(body).encode()
    head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def test_noise_on_the_wire_is_400_and_closed(url: str) -> None:
    for noise in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\r\n" * 50 + b"!" * 100 + b"\r\n\r\n"):
        with contextlib.closing(connect(url)) as one:
            one.sendall(noise)
            one.shutdown(socket.SHUT_WR)
            assert one.recv(4096)[:12] in (b"HTTP/1.1 400", b"")
    with contextlib.closing(connect(url)) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000)
        with contextlib.suppress(ConnectionError):
            assert one.recv(4096)[:12] in (b"HTTP/1.1 400", b"")


def test_half_open_connections_hold_nobody_up(url: str, client: httpx.Client) -> None:
    held = [connect(url) for _ in range(200)]
    for i, one in enumerate(held):
        if i % 2:
            one.sendall(request_of(SHORT)[: 20 + i % 100])
    assert client.post("/generate", json=SHORT).status_code == 200
    for one in held:
        one.close()


def test_two_thousand_connections_at_once_are_all_answered(url: str, client: httpx.Client) -> None:
    """Both ends are in this process, so it needs two files for each."""
    count, request = 2000, request_of({"text": "crowd", "sampling_params": {"max_new_tokens": 2}})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * count + 500:
        if hard < 2 * count + 500:
            pytest.skip(f"only {hard} files may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count + 500, hard))
    with contextlib.ExitStack() as opened:
        crowd = [opened.enter_context(contextlib.closing(connect(url))) for _ in range(count)]
        for one in crowd:
            one.settimeout(100)
            one.sendall(request)
        assert client.get("/health").status_code == 200, "one more is heard"
        for one in crowd:
            assert one.recv(4096).startswith(b"HTTP/1.1 200")


def test_clients_that_leave_at_any_moment_leave_nothing_behind(url: str, engine: Engine) -> None:
    chance = random.Random(0)
    for i in range(60):
        one = connect(url)
        body = {
            "text": ["leave"] * chance.randint(1, 3),
            "stream": bool(i % 2),
            "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True},
        }
        raw = request_of(body)
        one.sendall(raw[: chance.choice([len(raw), len(raw), len(raw) // 2])])
        time.sleep(chance.random() * 0.03)
        if chance.random() < 0.5:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # a reset in place of a goodbye
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        one.close()
    until(lambda: not engine.stats().running + engine.stats().waiting)


# -- the disk ------------------------------------------------------------------------


def test_a_disk_that_fails_in_an_update_changes_nothing(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    from evolute.models import export_model, load_model

    export_model(load_model("tiny"), tmp_path / "m")
    greedy = {"text": "disk", "sampling_params": {"max_new_tokens": 8, "temperature": 0}}
    before = client.post("/generate", json=greedy).json()["output_ids"]

    def fails(path: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "load", fails)
    body = {"model_path": str(tmp_path / "m")}
    answer = client.post("/update_weights_from_disk", json=body)
    assert answer.status_code == 400 and "No space left" in answer.json()["message"]
    monkeypatch.undo()
    assert client.post("/generate", json=greedy).json()["output_ids"] == before
    assert client.post("/update_weights_from_disk", json=body).status_code == 200
