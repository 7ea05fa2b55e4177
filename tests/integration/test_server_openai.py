"""The server through the official `openai` client, raw sockets and our own client."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from evolute.server import HttpBackend, RunningServer, create_app, serve_in_thread
from evolute.testing import ByteTokenizer, ScriptedBackend, until
from evolute.types import (
    Backend,
    BackendError,
    ConfigError,
    EvoluteError,
    FinishReason,
    GenerateRequest,
    NotSupported,
    OutOfCapacity,
    PromptTooLong,
    RequestError,
    SamplingParams,
    UnknownAdapter,
)

Start = Callable[..., tuple[ScriptedBackend, RunningServer]]
NORMAL = [
    (re.compile(r'"(cmpl|chatcmpl)-[0-9a-f]{32}'), r'"\1-ID'),
    (re.compile(r'("created":)\d+'), r"\g<1>0"),
]


@pytest.fixture
def start() -> Iterator[Start]:
    """Servers on scripted backends, stopped after the test."""
    servers: list[RunningServer] = []

    def begin(
        script: Any = ("ok",), api_keys: Sequence[str] | None = None, **settings: Any
    ) -> tuple[ScriptedBackend, RunningServer]:
        backend = ScriptedBackend(script, **settings)
        app = create_app(backend, served_names=["base"], api_keys=api_keys)
        servers.append(serve_in_thread(app))
        return backend, servers[-1]

    yield begin
    for server in servers:
        server.stop()


def client_of(server: RunningServer, **settings: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, **settings)


def ask(
    server: RunningServer, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """One POST with exactly these bytes; status, headers, text."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    with contextlib.closing(connection):
        connection.request("POST", path, data, sent)
        response = connection.getresponse()
        text = response.read().decode()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, text


def error_of(text: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# -- the official client ------------------------------------------------------


def test_completion_by_the_official_client(start: Start) -> None:
    backend, server = start(["four"])
    with client_of(server) as client:
        answer = client.completions.create(
            model="default", prompt="2+2=", max_tokens=9, temperature=0, seed=3, user="ann"
        )
    assert answer.choices[0].text == "four"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    request = backend.requests[0]
    assert bytes(request.prompt) == b"2+2="
    assert request.tenant == "ann"
    assert (request.sampling.max_new_tokens, request.sampling.seed) == (9, 3)


def test_prompts_and_samples_are_prompt_major(start: Start) -> None:
    def reply(request: GenerateRequest) -> str:
        return bytes(request.prompt).decode().upper()

    _, server = start(reply)
    with client_of(server) as client:
        answer = client.completions.create(model="base", prompt=["a", "b"], n=2)
        ids = client.completions.create(model="base", prompt=[[99], [100]])
    assert [c.text for c in answer.choices] == ["A", "A", "B", "B"]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert [c.text for c in ids.choices] == ["C", "D"]
    assert answer.usage is not None and answer.usage.prompt_tokens == 2


def test_streamed_text_is_the_whole_text_and_never_splits_a_character(start: Start) -> None:
    text = "naïve 世界 🎉 STOP hidden"
    _, server = start([text])
    with client_of(server) as client:
        stream = client.completions.create(
            model="base",
            prompt=["x", "y"],
            max_tokens=100,
            stop="STOP",
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        whole = client.completions.create(model="base", prompt="x", max_tokens=100, stop="STOP")
    assert whole.choices[0].text == "naïve 世界 🎉 "
    for index in (0, 1):
        parts = [c.choices[0].text for c in chunks if c.choices and c.choices[0].index == index]
        assert "".join(parts) == whole.choices[0].text
        assert not any("\ufffd" in part for part in parts)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 2
    assert all(c.usage is None for c in chunks[:-1])


def test_chat_by_the_official_client(start: Start) -> None:
    backend, server = start(["hello"])
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model="base",
            messages=[
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ],
            logprobs=True,
            top_logprobs=2,
            max_completion_tokens=50,
        )
    choice = answer.choices[0]
    assert (choice.message.content, choice.message.role) == ("hello", "assistant")
    assert choice.logprobs is not None and choice.logprobs.content is not None
    first = choice.logprobs.content[0]
    assert (first.token, first.bytes, first.logprob) == ("h", [104], -0.4)
    assert [top.token for top in first.top_logprobs] == ["h", "i"]
    assert len(choice.logprobs.content) == 6  # the end-of-sequence token is counted
    prompt = backend.requests[0].prompt
    assert backend.tokenizer.decode(prompt) == "system\nbe brief" + "user\nhi" + "assistant\n"
    assert backend.requests[0].sampling.max_new_tokens == 50


def test_chat_defaults_to_the_room_that_is_left(start: Start) -> None:
    backend, server = start(["hello"], context=100)
    with client_of(server) as client:
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x"}])
    request = backend.requests[0]
    assert request.sampling.max_new_tokens == 100 - len(request.prompt)


def test_async_chat_stream_order(start: Start) -> None:
    _, server = start(["abc"])

    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k") as client:
            stream = await client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "x"}], n=2, stream=True
            )
            return [chunk async for chunk in stream]

    chunks = asyncio.run(run())
    for index in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert mine[0].delta.role == "assistant" and mine[0].delta.content == ""
        assert "".join(c.delta.content or "" for c in mine) == "abc"
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]
        assert mine[-1].finish_reason == "stop" and mine[-1].delta.content is None


def test_response_formats_become_grammars(start: Start) -> None:
    backend, server = start(["{}"])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with client_of(server) as client:
        for form in (
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
            {"type": "text"},
        ):
            client.chat.completions.create(
                model="base",
                messages=[{"role": "user", "content": "x"}],
                response_format=form,  # type: ignore[arg-type]
            )
    given = [request.sampling.json_schema for request in backend.requests]
    assert given[2] is None
    assert [json.loads(text or "") for text in given[:2]] == [{"type": "object"}, schema]


def test_models_lists_base_and_adapters_and_routes_to_them(start: Start) -> None:
    backend, server = start(adapters=["ann", "bob"])
    with client_of(server) as client:
        ids = [model.id for model in client.models.list()]
        assert ids == ["base", "ann", "base:ann", "bob", "base:bob"]
        assert client.models.retrieve("base:ann").id == "base:ann"
        for name in ("default", "base", "ann", "base:ann", "default:bob"):
            client.completions.create(model=name, prompt="x")
        with pytest.raises(openai.NotFoundError, match="Did you mean 'base'") as caught:
            client.completions.create(model="basse", prompt="x")
    assert caught.value.code == "model_not_found"
    assert [r.adapter for r in backend.requests] == [None, None, "ann", "ann", "bob"]


def test_completion_logprobs_echo_and_offsets(start: Start) -> None:
    _, server = start(["é!"])
    with client_of(server) as client:
        answer = client.completions.create(model="base", prompt="ab", echo=True, logprobs=0)
        top = client.completions.create(model="base", prompt="ab", logprobs=2)
    choice = answer.choices[0]
    assert choice.text == "abé!"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "\ufffd", "\ufffd", "!", "<eos>"]
    assert choice.logprobs.token_logprobs == [None, -0.8, -0.5, -0.9, -0.3, -0.6]
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    assert top.choices[0].logprobs is not None
    assert top.choices[0].logprobs.top_logprobs is not None
    assert top.choices[0].logprobs.top_logprobs[2] == {"!": -0.3, '"': -1.3}


# -- bytes on the wire ----------------------------------------------------------


def test_stream_bytes(start: Start) -> None:
    _, server = start(["hé"])
    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    status, headers, text = ask(server, "/v1/completions", body)
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    for pattern, plain in NORMAL:
        text = pattern.sub(plain, text)
    head = '{"id":"cmpl-ID","object":"text_completion","created":0,"model":"base","choices":['
    part = '{"index":0,"text":"%s","logprobs":null,"finish_reason":%s}],"usage":null}'
    end = (
        '{"index":0,"text":"","logprobs":null,"finish_reason":"stop","matched_stop":256}],'
        '"usage":null}'
    )
    usage = (
        '],"usage":{"prompt_tokens":1,"completion_tokens":4,"total_tokens":5,'
        '"prompt_tokens_details":{"cached_tokens":0}}}'
    )
    events = [head + part % ("h", "null"), head + part % ("é", "null"), head + end, head + usage]
    assert text == "".join(f"data: {e}\n\n" for e in [*events, "[DONE]"])


def test_chat_stream_bytes(start: Start) -> None:
    _, server = start(["a"])
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    _, _, text = ask(server, "/v1/chat/completions", body)
    for pattern, plain in NORMAL:
        text = pattern.sub(plain, text)
    head = '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"base",'
    deltas = [
        '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
        '"finish_reason":null}]}',
        '"choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}',
        '"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop",'
        '"matched_stop":256}]}',
    ]
    events = [*(head + delta for delta in deltas), "[DONE]"]
    assert text == "".join(f"data: {event}\n\n" for event in events)


def test_error_before_the_first_token_is_an_http_error_even_when_streaming(start: Start) -> None:
    _, server = start([PromptTooLong("too long; shorten it")])
    status, _, text = ask(server, "/v1/completions", {"prompt": "x", "stream": True})
    assert status == 400
    assert error_of(text)["code"] == "context_length_exceeded"


def test_error_inside_a_stream_is_one_event_then_done(start: Start) -> None:
    class Breaks(ScriptedBackend):
        async def stream(self, request: GenerateRequest) -> Any:
            async for delta in super().stream(request):
                yield delta
                raise EvoluteError("the engine broke")

    server = serve_in_thread(create_app(Breaks(), served_names=["base"]))
    try:
        status, _, text = ask(server, "/v1/completions", {"prompt": "x", "stream": True})
    finally:
        server.stop()
    events = text.split("\n\n")
    assert status == 200
    assert events[-2:] == ["data: [DONE]", ""]
    assert error_of(events[-3].removeprefix("data: "))["message"] == "the engine broke"
    assert text.count('"error"') == 1


# -- refusals ---------------------------------------------------------------------


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


PICTURE = {"type": "image_url", "image_url": {"url": "u"}}
SCHEMALESS = {"response_format": {"type": "json_schema"}}
XML = {"response_format": {"type": "xml"}}
CHAT = {"messages": [{"role": "user", "content": "x"}]}
REFUSED: list[tuple[str, Any, int, str | None, str]] = [
    ("completions", {"prompt": "x", "temprature": 1}, 400, "temprature", "'temperature'"),
    ("completions", {}, 400, "prompt", "missing"),
    ("completions", {"prompt": ""}, 400, "prompt", "Prompt cannot be empty"),
    ("completions", {"prompt": ["a", 3]}, 400, "prompt", "list of texts"),
    ("completions", {"prompt": [[259]]}, 400, "prompt", "out-of-vocabulary"),
    ("completions", {"prompt": [True]}, 400, "prompt", "prompt must be"),
    ("completions", {"prompt": "x", "max_tokens": -1}, 400, "max_tokens", "max_tokens"),
    ("completions", {"prompt": "x", "temperature": "1"}, 400, "temperature", "number"),
    ("completions", {"prompt": "x", "top_p": 0}, 400, "top_p", "greater than 0"),
    ("completions", {"prompt": "x", "n": 0}, 400, "n", "greater"),
    ("completions", {"prompt": "x", "stop": ["a"] * 33}, 400, None, "stop strings"),
    ("completions", {"prompt": "x", "stop": [""]}, 400, None, "empty stop"),
    ("completions", {"prompt": "x", "logit_bias": {"a": 1}}, 400, "logit_bias", "token ids"),
    ("completions", {"prompt": "x", "best_of": 3}, 400, "best_of", "best_of"),
    ("completions", {"prompt": "x", "suffix": "y"}, 400, "suffix", "suffix"),
    ("completions", {"prompt": "x", "stream": True, "echo": True, "logprobs": 2}, 400, "echo", ""),
    ("completions", {"prompt": "x", "regex": "a", "lark": "b"}, 400, None, "exclude"),
    ("completions", {"prompt": "x", "model": "nope"}, 404, "model", "'nope'"),
    ("completions", {"prompt": "x", "stream_options": {}}, 400, "stream_options", "stream=true"),
    ("completions", {"prompt": ["x"] * 2000}, 400, "prompt", "at most"),
    ("completions", {"prompt": "\ud800"}, 400, None, "Unicode"),
    ("completions", b"{'prompt': 1}", 400, None, "not valid JSON"),
    ("completions", b"[1]", 400, None, "JSON object"),
    ("completions", b'{"prompt": "x", "top_p": NaN}', 400, None, "NaN"),
    ("completions", b"[" * 100_000, 400, None, "not valid JSON"),
    ("chat/completions", {"messages": []}, 400, "messages", "empty"),
    ("chat/completions", {**CHAT, "functions": [{}]}, 400, "functions", "functions"),
    ("chat/completions", {**CHAT, "reasoning_effort": "low"}, 400, "reasoning_effort", "reason"),
    ("chat/completions", {**CHAT, "metadata": {"a": "b"}}, 400, "metadata", "metadata"),
    (
        "completions",
        {"prompt": "x", "stream": True, "stream_options": {"continuous_usage_stats": True}},
        400,
        "stream_options",
        "include_usage",
    ),
    ("chat/completions", {**CHAT, "top_logprobs": 2}, 400, "top_logprobs", "logprobs=true"),
    ("chat/completions", {**CHAT, "echo": True}, 400, "echo", "unknown field"),
    (
        "chat/completions",
        {**CHAT, "max_tokens": 1, "max_completion_tokens": 2},
        400,
        "max_tokens",
        "differ",
    ),
    ("chat/completions", {**CHAT, **SCHEMALESS}, 400, "response_format", "schema"),
    ("chat/completions", {**CHAT, **XML}, 400, "response_format", "json_object"),
    ("chat/completions", turn("x", "y"), 400, "messages[0].role", "role"),
    ("chat/completions", turn("user", None), 400, "messages[0].content", "content"),
    ("chat/completions", turn("user", [PICTURE]), 501, "messages[0].content", "image_url"),
    ("embeddings", {"input": "x"}, 501, None, "embedding"),
    ("images/generations", {"prompt": "x"}, 501, None, "vision"),
    ("audio/speech", {}, 501, None, "audio"),
    ("nothing", {}, 404, None, "Not Found"),
]  # fmt: skip


def test_what_cannot_be_honoured_is_refused_by_name(start: Start) -> None:
    backend, server = start()
    for path, body, status, param, text in REFUSED:
        got, _, answer = ask(server, f"/v1/{path}", body)
        error = error_of(answer)
        assert (got, error["param"]) == (status, param), (body, answer)
        assert text in error["message"], (body, answer)
        assert error["type"] == "invalid_request_error"
    assert backend.requests == []


def test_fields_that_ask_for_nothing_are_accepted(start: Start) -> None:
    backend, server = start()
    body = {**CHAT, "tools": [], "tool_choice": "none", "store": False, "service_tier": "auto"}
    body |= {"metadata": None, "parallel_tool_calls": True, "top_k": -1, "response_format": None}
    assert ask(server, "/v1/chat/completions", body)[0] == 200
    assert ask(server, "/v1/completions", {"prompt": "x", "suffix": None, "best_of": 1})[0] == 200
    assert len(backend.requests) == 2


def test_wrong_content_type_is_400(start: Start) -> None:
    _, server = start()
    status, _, text = ask(server, "/v1/completions", b"{}", {"Content-Type": "text/plain"})
    assert (status, error_of(text)["code"]) == (400, "bad_content_type")


def test_full_queue_says_when_to_come_back(start: Start) -> None:
    _, server = start([OutOfCapacity("the queue is full", retry_after_s=2.3)])
    status, headers, text = ask(server, "/v1/completions", {"prompt": "x"})
    assert (status, headers["retry-after"]) == (503, "3")
    assert error_of(text)["type"] == "server_error"


def test_unforeseen_failure_is_500_without_its_text(start: Start) -> None:
    _, server = start([ValueError("secret")])
    status, _, text = ask(server, "/v1/completions", {"prompt": "x"})
    assert status == 500
    assert "secret" not in text
    assert error_of(text)["type"] == "server_error"


def test_keys_guard_all_but_health(start: Start) -> None:
    _, server = start(api_keys=["key", "other"])
    body = {"prompt": "x"}
    assert ask(server, "/v1/completions", body)[0] == 401
    assert ask(server, "/v1/completions", body, {"Authorization": "Bearer wrong"})[0] == 401
    assert ask(server, "/v1/completions", body, {"Authorization": "Bearer other"})[0] == 200
    with client_of(server) as client:
        assert client.completions.create(model="base", prompt="x").choices[0].text == "ok"
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_metrics_count_answers_by_status(start: Start) -> None:
    _, server = start()

    def count(status: int) -> float:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        label = f'path="/v1/completions",status="{status}"'
        found = [line for line in text.splitlines() if label in line and "_total" in line]
        return float(found[0].split()[-1]) if found else 0.0

    before = count(200), count(400)
    ask(server, "/v1/completions", {"prompt": "x"})
    ask(server, "/v1/completions", {"prompt": ""})
    assert (count(200), count(400)) == (before[0] + 1, before[1] + 1)


# -- leaving, crowds, ports ----------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("delay_s", [0.05, 30.0])
def test_a_client_that_leaves_aborts_its_request(
    start: Start, stream: bool, delay_s: float
) -> None:
    backend, server = start(["x" * 4000], delay_s=delay_s)
    where = urlsplit(server.url)
    body = json.dumps({"prompt": ["p", "q"], "max_tokens": 4000, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    raw = socket.create_connection((where.hostname, where.port), timeout=5)
    raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    until(lambda: len(backend.requests) == 2)
    if stream and delay_s < 1:
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
    raw.close()
    until(lambda: len(backend.cancelled) == 2)
    assert backend.stats()["running"] == 0


def test_a_hundred_clients_at_once(start: Start) -> None:
    def reply(request: GenerateRequest) -> str:
        return bytes(request.prompt).decode()

    _, server = start(reply, delay_s=0.005)

    def one(i: int) -> bool:
        body = {"prompt": f"p{i}", "stream": i % 2 == 0, "max_tokens": 20}
        status, _, text = ask(server, "/v1/completions", body)
        if i % 2:
            return status == 200 and json.loads(text)["choices"][0]["text"] == f"p{i}"
        texts = [json.loads(e[6:])["choices"][0]["text"] for e in text.split("\n\n")[:-2]]
        return status == 200 and "".join(texts) == f"p{i}"

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(100)))


def test_port_in_use_names_the_fix(start: Start) -> None:
    backend, server = start()
    port = urlsplit(server.url).port
    app = create_app(backend, served_names=["base"])
    with pytest.raises(ConfigError, match="in use; choose another --port"):
        serve_in_thread(app, port=port or 0)
    with pytest.raises(ConfigError, match="no address"):
        serve_in_thread(app, host="no.such.host.invalid")
    server.stop()
    serve_in_thread(app, port=port or 0).stop()  # a stopped server leaves the port free


def test_stop_ends_running_streams(start: Start) -> None:
    backend, server = start(["x" * 4000], delay_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "stream": True, "max_tokens": 4000}
        answer = pool.submit(ask, server, "/v1/completions", body)
        until(lambda: backend.requests)
        server.stop()
        assert answer.exception(5) is not None or "[DONE]" not in answer.result()[2]
    assert backend.cancelled


# -- our own client ---------------------------------------------------------------------


def test_http_backend_loses_nothing(start: Start) -> None:
    backend, server = start(["answer é", "b"], adapters=["ann"])
    sampling = SamplingParams(
        max_new_tokens=40, n=2, top_logprobs=2, top_k=5, min_p=0.1, seed=1, stop=("zz",),
        stop_token_ids=(7,), logit_bias={3: 1.5}, repetition_penalty=1.2, regex="a+",
        min_new_tokens=1, ignore_eos=True, include_stop=True, skip_special_tokens=False,
        frequency_penalty=0.5, presence_penalty=-0.5, top_p=0.9, temperature=0.7,
    )  # fmt: skip
    request = GenerateRequest((1, 2, 3), sampling, adapter="ann", tenant="t", cache_salt="s")

    async def run() -> tuple[Any, Any, Any]:
        async with HttpBackend(server.url, "base", ByteTokenizer()) as remote:
            assert isinstance(remote, Backend)
            whole = await remote.agenerate(request)
            backend._next = 0
            deltas = [delta async for delta in remote.stream(request)]
            scored = GenerateRequest((65, 66), SamplingParams(prompt_logprobs=True))
            return whole, deltas, (await remote.agenerate(scored))[0]

    whole, deltas, scored = asyncio.run(run())
    for seen in backend.requests[:2]:
        assert (seen.sampling, seen.adapter, seen.tenant) == (sampling, "ann", "t")
        assert (seen.prompt, seen.cache_salt) == ((1, 2, 3), "s")
    backend._next = 0
    local = asyncio.run(backend.agenerate(request))
    for mine, there in zip(local, whole, strict=True):
        assert _without_id(mine) == _without_id(there)
    streamed = sorted((d.output for d in deltas if d.output), key=lambda o: o.index)
    assert [_without_id(o) for o in streamed] == [_without_id(o) for o in local]
    assert "".join(d.text for d in deltas if d.index == 0) == local[0].text
    assert scored.prompt_logprobs == (None, -0.6)


def _without_id(output: Any) -> Any:
    return dataclasses.replace(output, request_id="")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (PromptTooLong("long"), PromptTooLong),
        (RequestError("bad"), RequestError),
        (NotSupported("no"), NotSupported),
        (UnknownAdapter("who"), UnknownAdapter),
        (EvoluteError("broken"), BackendError),
    ],
)
def test_http_backend_raises_what_the_server_meant(
    start: Start, failure: Exception, kind: type[Exception]
) -> None:
    _, server = start([failure])

    async def run() -> None:
        async with HttpBackend(server.url) as remote:
            for call in (remote.agenerate(GenerateRequest((1,))), _drain(remote)):
                with pytest.raises(kind, match=str(failure)):
                    await call

    asyncio.run(run())


async def _drain(remote: HttpBackend) -> None:
    async for _ in remote.stream(GenerateRequest((1,))):
        pass


def test_http_backend_retries_a_full_server_a_counted_number_of_times(start: Start) -> None:
    full = OutOfCapacity("full", retry_after_s=0.0)
    backend, server = start([full, "ok"])

    async def run() -> None:
        async with HttpBackend(server.url, max_retries=1) as remote:
            outputs = await remote.agenerate(GenerateRequest((1,)))
            assert (outputs[0].text, outputs[0].finish_reason) == ("ok", FinishReason.STOP)
            assert remote.num_retries == 1
            backend._script = [full]
            with pytest.raises(OutOfCapacity):
                await remote.agenerate(GenerateRequest((1,)))
            assert remote.num_retries == 2

    asyncio.run(run())


def test_http_backend_without_a_server_is_a_backend_error() -> None:
    async def run() -> None:
        async with HttpBackend("http://127.0.0.1:9", max_retries=0) as remote:
            with pytest.raises(BackendError, match="Is the server running"):
                await remote.agenerate(GenerateRequest((1,)))

    asyncio.run(run())


def test_cancelling_http_backend_aborts_on_the_server(start: Start) -> None:
    backend, server = start(["x" * 1000], delay_s=0.05)

    async def run() -> None:
        async with HttpBackend(server.url) as remote:
            request = GenerateRequest((1,), SamplingParams(max_new_tokens=1000))
            task = asyncio.create_task(remote.agenerate(request))
            while not backend.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    until(lambda: backend.cancelled)
