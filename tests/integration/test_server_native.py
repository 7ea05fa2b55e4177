"""The contract of the native paths on a real engine with the tiny model."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import pickle
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from safetensors.torch import save, save_file

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, export_model, load_model, save_peft
from evolute.models.tiny import tiny_weights
from evolute.server import create_app, serve_in_thread
from evolute.testing import until
from evolute.types import SamplingParams

TINY = load_model("tiny")
GREEDY = {"temperature": 0, "ignore_eos": True}
ENDLESS = {"max_new_tokens": 3500, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(TINY, num_threads=1, memory_mb=64) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[httpx.Client]:
    server = serve_in_thread(create_app(engine, served_names=["tiny"]))
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client
    server.stop()


@pytest.fixture(autouse=True)
def _nothing_is_lost(engine: Engine) -> Iterator[None]:
    yield
    until(lambda: engine.stats().running + engine.stats().waiting == 0)
    engine.check()


def post(client: httpx.Client, path: str, body: Any = None, status: int = 200) -> Any:
    response = client.post(path, json=body) if body is not None else client.post(path)
    assert response.status_code == status, response.text
    kind = response.headers.get("content-type", "")
    return response.json() if "json" in kind else response.text


def generate(client: httpx.Client, status: int = 200, **body: Any) -> Any:
    return post(client, "/generate", body, status)


def events(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# -- /generate -----------------------------------------------------------------------


def test_one_text_is_answered_by_one_object(client: httpx.Client, engine: Engine) -> None:
    (local,) = engine.generate("hello", SamplingParams(max_new_tokens=9, **GREEDY))
    answer = generate(client, text="hello", sampling_params={"max_new_tokens": 9} | GREEDY)
    meta = answer["meta_info"]
    assert answer.keys() == {"text", "output_ids", "meta_info"}
    assert (answer["text"], answer["output_ids"]) == (local.text, list(local.token_ids))
    assert meta.keys() == {
        *("id", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens"),
        *("reasoning_tokens", "num_retractions", "weight_version", "e2e_latency"),
    }
    assert meta["finish_reason"] == {"type": "length", "length": 9}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (5, 9)
    assert meta["weight_version"] == "default"
    assert 0 < meta["e2e_latency"] < 30
    put = client.put("/generate", json={"text": "hello", "sampling_params": {"max_new_tokens": 1}})
    assert put.status_code == 200


def test_the_default_is_128_tokens_and_null_is_the_default(client: httpx.Client) -> None:
    nulls = {"max_new_tokens": None, "stop": None, "top_k": -1, "regex": "", "ignore_eos": True}
    answer = generate(client, text="x", sampling_params=nulls, rid=None, image_data=None)
    assert answer["meta_info"]["completion_tokens"] == 128


def test_batches_are_lists_in_order_with_settings_of_their_own(client: httpx.Client) -> None:
    answer = generate(
        client,
        input_ids=[[1, 2, 3], [4, 5]],
        sampling_params=[{"max_new_tokens": 2, **GREEDY}, {"max_new_tokens": 3, **GREEDY}],
        rid=["a", "b"],
        return_logprob=[True, False],
    )
    assert [a["meta_info"]["id"] for a in answer] == ["a", "b"]
    assert [a["meta_info"]["index"] for a in answer] == [0, 1]
    assert [len(a["output_ids"]) for a in answer] == [2, 3]
    assert ["output_token_logprobs" in a["meta_info"] for a in answer] == [True, False]
    alone = generate(client, input_ids=[4, 5], sampling_params={"max_new_tokens": 3, **GREEDY})
    assert alone["output_ids"] == answer[1]["output_ids"]
    (one,) = generate(client, text=["x"], sampling_params={"max_new_tokens": 1}, rid="z")
    assert one["meta_info"]["id"] == "z_0"


def test_samples_are_a_list_and_a_seed_repeats_them(client: httpx.Client) -> None:
    params = {"max_new_tokens": 6, "n": 3, "sampling_seed": 5, "temperature": 1.5}
    first = generate(client, text=["a", "b"], sampling_params=params)
    assert len(first) == 6
    again = generate(client, text=["a", "b"], sampling_params=params)
    assert [a["text"] for a in first] == [a["text"] for a in again]
    assert len({a["text"] for a in first[:3]}) > 1


def test_no_new_tokens_is_prefill_only(client: httpx.Client) -> None:
    prompt = [7] * 64
    answer = generate(client, input_ids=prompt, sampling_params={"max_new_tokens": 0})
    assert (answer["text"], answer["output_ids"]) == ("", [])
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    again = generate(client, input_ids=prompt, sampling_params={"max_new_tokens": 0})
    assert again["meta_info"]["cached_tokens"] == 48  # 63, down to pages of 16


def test_cached_tokens_are_exact(client: httpx.Client, engine: Engine) -> None:
    """A fresh cache, then prompts that share: all but the last token, down to whole pages."""
    post(client, "/flush_cache")
    long = [(i * 7919) % 251 for i in range(3800)]
    page = engine.config.page_size

    def cached(prompt: list[int]) -> int:
        answer = generate(client, input_ids=prompt, sampling_params={"max_new_tokens": 1})
        return int(answer["meta_info"]["cached_tokens"])

    assert cached(long[:100]) == 0
    assert cached(long[:3000]) == 100 // page * page
    assert cached(long[:3000]) == 2999 // page * page
    assert cached(long[:1000]) == 999 // page * page
    assert cached(long) == 3000 // page * page
    post(client, "/flush_cache")
    assert cached(long[:100]) == 0


def test_salts_keep_caches_apart(client: httpx.Client) -> None:
    post(client, "/flush_cache")
    prompt = [9] * 40

    def cached(**fields: str) -> int:
        params = {"max_new_tokens": 0}
        answer = generate(client, input_ids=prompt, sampling_params=params, **fields)
        return int(answer["meta_info"]["cached_tokens"])

    assert [cached(), cached()] == [0, 32]
    assert [cached(cache_salt="a"), cached(cache_salt="a")] == [0, 32]
    assert [cached(extra_key="a"), cached(extra_key="a")] == [0, 32]
    assert [cached(cache_salt="a", extra_key="a"), cached(cache_salt="b")] == [0, 0]


def test_logprobs_have_the_shape_and_the_values(client: httpx.Client, engine: Engine) -> None:
    sampling = SamplingParams(
        max_new_tokens=4, temperature=0, ignore_eos=True, prompt_logprobs=True, top_logprobs=2
    )
    (local,) = engine.generate("hello world", sampling)
    answer = generate(
        client,
        text="hello world",
        sampling_params={"max_new_tokens": 4} | GREEDY,
        return_logprob=True,
        logprob_start_len=4,
        top_logprobs_num=2,
        token_ids_logprob=[101, 3],
        return_text_in_logprobs=True,
    )
    meta, prompt = answer["meta_info"], list(b"hello world")
    told = meta["input_token_logprobs"]
    assert [entry[1] for entry in told] == prompt[4:]
    assert len(told) + 4 == meta["prompt_tokens"]
    assert told[0] == [None, ord("o"), "o"]
    assert [e[0] for e in told[1:]] == pytest.approx(list(local.prompt_logprobs[5:]), abs=1e-4)
    assert len(meta["input_top_logprobs"]) == len(meta["input_token_ids_logprobs"]) == 7
    assert meta["input_top_logprobs"][0] is None is meta["input_token_ids_logprobs"][0]
    assert [[e[1] for e in row] for row in meta["input_token_ids_logprobs"][1:]] == [[101, 3]] * 6
    out = meta["output_token_logprobs"]
    assert [e[1] for e in out] == answer["output_ids"]
    assert [e[0] for e in out] == pytest.approx(list(local.logprobs), abs=1e-4)
    assert meta["output_token_logprobs_length"] == 4
    for entry, row, ids in zip(
        out, meta["output_top_logprobs"], meta["output_token_ids_logprobs"], strict=True
    ):
        assert row[0][:2] == pytest.approx(entry[:2], abs=1e-4)  # greedy takes the best
        assert row[0][0] >= row[1][0]
        assert [e[1] for e in ids] == [101, 3]
    assert (
        generate(client, text="ab", return_logprob=True)["meta_info"]["input_token_logprobs"] == []
    )


def test_what_is_told_can_differ_between_the_prompts_of_a_batch(client: httpx.Client) -> None:
    one, two, three = generate(
        client,
        text=["abc", "defg", "hi"],
        sampling_params={"max_new_tokens": 1},
        return_logprob=[True, True, False],
        logprob_start_len=[0, -1, -1],
        top_logprobs_num=[2, 0, 0],
        token_ids_logprob=[None, [9, 8], None],
    )
    assert len(one["meta_info"]["input_top_logprobs"]) == 3
    assert "output_token_ids_logprobs" not in one["meta_info"]
    assert two["meta_info"]["input_token_logprobs"] == []
    assert [e[1] for e in two["meta_info"]["output_token_ids_logprobs"][0]] == [9, 8]
    assert "output_top_logprobs" not in two["meta_info"]
    assert "output_token_logprobs" not in three["meta_info"]
    both = generate(client, text=["a", "b"], return_logprob=True, token_ids_logprob=[5])
    assert all("output_token_ids_logprobs" in a["meta_info"] for a in both)


def test_decoding_and_prefill_tell_the_same(client: httpx.Client) -> None:
    """Generate with log-probabilities, then score prompt and output by prefill alone."""
    made = generate(
        client,
        input_ids=[[3, 1, 4, 1, 5, 9, 2, 6]] * 2,
        sampling_params=[
            {"max_new_tokens": 30, "temperature": t, "ignore_eos": True} for t in (0, 0.6)
        ],
        return_logprob=True,
    )
    for answer, temperature in zip(made, (1.0, 0.6), strict=True):
        whole = [3, 1, 4, 1, 5, 9, 2, 6, *answer["output_ids"]]
        scored = generate(
            client,
            input_ids=whole,
            sampling_params={"max_new_tokens": 0, "temperature": temperature},
            return_logprob=True,
            logprob_start_len=7,
        )
        decoded = [e[0] for e in answer["meta_info"]["output_token_logprobs"]]
        prefilled = [e[0] for e in scored["meta_info"]["input_token_logprobs"][1:]]
        assert decoded == pytest.approx(prefilled, abs=1e-3)


def test_a_stream_is_cumulative_and_ends_as_the_whole_answer(client: httpx.Client) -> None:
    body: dict[str, Any] = {
        "text": "stream me",
        "sampling_params": {"max_new_tokens": 20} | GREEDY,
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    whole, told = generate(client, **body), events(client, **body)
    texts = [event["text"] for event in told]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert [e["meta_info"]["completion_tokens"] for e in told] == list(range(1, 21))
    assert [e["meta_info"]["finish_reason"] for e in told[:-1]] == [None] * 19
    last, cached = told[-1], {e["meta_info"]["cached_tokens"] for e in told}
    assert len(cached) == 1
    assert (last["text"], last["output_ids"]) == (whole["text"], whole["output_ids"])
    for name in ("output_token_logprobs", "input_token_logprobs", "finish_reason"):
        assert last["meta_info"][name] == whole["meta_info"][name]
    few = events(
        client, text="x", sampling_params={"max_new_tokens": 20, "stream_interval": 8} | GREEDY
    )
    assert [e["meta_info"]["completion_tokens"] for e in few] == [8, 16, 20]


def test_a_stream_of_a_batch_says_whose_each_event_is(client: httpx.Client) -> None:
    body = {"text": ["a", "b"], "sampling_params": {"max_new_tokens": 5, "n": 2} | GREEDY}
    whole, last = generate(client, **body), {}
    for event in events(client, **body):
        last[event["index"]] = event
    assert [last[i]["text"] for i in range(4)] == [a["text"] for a in whole]


def test_stops_trim_unless_they_are_to_stay(client: httpx.Client) -> None:
    params = {"max_new_tokens": 60} | GREEDY
    free = generate(client, text="hello", sampling_params=params)["text"]
    letter = next(c for c in free if c.isascii() and c.isalpha())
    at = free.index(letter)
    for stop in ({"stop": letter}, {"stop_regex": "[a-zA-Z]"}, {"stop_regex": ["ZZZZ", letter]}):
        answer = generate(client, text="hello", sampling_params=params | stop)
        assert answer["text"] == free[:at]
        matched = "[a-zA-Z]" if stop.get("stop_regex") == "[a-zA-Z]" else letter
        assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": matched}
        kept = generate(
            client, text="hello", sampling_params=params | stop | {"no_stop_trim": True}
        )
        assert kept["text"] == free[: at + 1]
    by_id = {"stop_token_ids": [ord(letter)], "ignore_eos": False}
    answer = generate(client, text="hello", sampling_params=params | by_id)
    assert answer["meta_info"]["finish_reason"]["matched"] in (ord(letter), 258)
    kept = generate(client, text="hello", sampling_params=params | by_id | {"no_stop_trim": True})
    assert kept["text"] == free[: at + 1]


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ({"regex": "[ab]{3}c"}, "[ab]{3}c"),
        ({"ebnf": 'root ::= "x" [0-9]+ "y"'}, "x[0-9]+y"),
        ({"lark": 'start: "p" ("q" | "r")'}, "p[qr]"),
        ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 7}}, "[3-7]"),
        ({"json_schema": '{"enum": ["u"]}'}, '"u"'),
    ],
)
def test_grammars_bind(client: httpx.Client, grammar: dict[str, Any], pattern: str) -> None:
    for seed in range(3):
        params = {"max_new_tokens": 200, "sampling_seed": seed} | grammar
        answer = generate(client, text="go", sampling_params=params)
        assert answer["meta_info"]["finish_reason"]["type"] == "stop"
        assert re.fullmatch(pattern, answer["text"])


def test_biases_and_minimum_lengths_bind(client: httpx.Client) -> None:
    params = {"max_new_tokens": 5, "logit_bias": {"65": 1000}, "temperature": 0}
    assert generate(client, text="x", sampling_params=params)["text"] == "AAAAA"
    params = {"max_new_tokens": 9, "min_new_tokens": 9, "logit_bias": {"258": 1000}}
    answer = generate(client, text="x", sampling_params=params)
    assert answer["meta_info"]["completion_tokens"] == 9


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "either text, input_ids or input_pieces"),
    ({"text": "a", "input_ids": [1]}, 400, "either text, input_ids or input_pieces"),
    ({"text": ""}, 400, "empty prompt"),
    ({"text": []}, 400, "empty list"),
    ({"input_ids": [[]]}, 400, "empty prompt"),
    ({"input_ids": [259]}, 400, "259 in input_ids is out-of-vocabulary"),
    ({"input_ids": [-1]}, 400, "-1 in input_ids is out-of-vocabulary"),
    ({"input_ids": [10**40]}, 400, "out-of-vocabulary"),
    ({"input_ids": [1.5]}, 400, "a list of token ids"),
    ({"input_ids": "x"}, 400, "a list of token ids"),
    ({"input_ids": [1] * 4097}, 400, "4097 tokens"),
    ({"text": 3}, 400, "a text or a list of texts"),
    ({"text": ["a"] * 1025}, 400, "at most 1024"),
    ({"text": ["a", "b"], "rid": ["z", "z"]}, 400, "unique"),
    ({"text": ["a", "b"], "rid": ["z"]}, 400, "1 entries, but there are 2"),
    ({"text": "a", "rid": ""}, 400, "1 to 256"),
    ({"text": "a", "sampling_parms": {}}, 400, "Did you mean 'sampling_params'"),
    ({"text": "a", "sampling_params": {"max_tokens": 1}}, 400, "Did you mean 'max_new_tokens'"),
    ({"text": "a", "sampling_params": {"max_new_tokens": -1}}, 400, "at least 0"),
    ({"text": "a", "sampling_params": {"max_new_tokens": "1"}}, 400, "valid integer"),
    ({"text": "a", "sampling_params": {"max_new_tokens": True}}, 400, "valid integer"),
    ({"text": "a", "sampling_params": [{}, {}]}, 400, "2 entries, but there are 1"),
    ({"text": "a", "sampling_params": 3}, 400, "an object, or a list"),
    ({"text": "a", "sampling_params": {"temperature": -0.1}}, 400, "temperature is -0.1"),
    ({"text": "a", "sampling_params": {"temperature": 1e300}}, 400, "temperature"),
    ({"text": "a", "sampling_params": {"top_p": 0}}, 400, "top_p"),
    ({"text": "a", "sampling_params": {"top_k": -2}}, 400, "top_k"),
    ({"text": "a", "sampling_params": {"top_k": 10**30}}, 400, "top_k"),
    ({"text": "a", "sampling_params": {"n": 0}}, 400, "n:"),
    ({"text": "a", "sampling_params": {"n": 10**9}}, 400, "n:"),
    ({"text": ["a"] * 3, "sampling_params": {"n": 1000}}, 400, "at most 1024"),
    ({"text": ["a"] * 2, "sampling_params": [{"n": 1}, {"n": 2}]}, 400, "n differs"),
    ({"text": "a", "sampling_params": {"min_new_tokens": 3, "max_new_tokens": 2}}, 400, "above"),
    ({"text": "a", "sampling_params": {"stop": ["x"] * 10_000}}, 400, "10000 stop strings"),
    ({"text": "a", "sampling_params": {"stop": "x" * 10_000}}, 400, "10000 characters"),
    ({"text": "a", "sampling_params": {"stop_regex": "(a|a)*"}}, 400, "empty text"),
    ({"text": "a", "sampling_params": {"regex": "a", "ebnf": 'root ::= "a"'}}, 400, "exclude"),
    ({"text": "a", "sampling_params": {"regex": "("}}, 400, "regex cannot be compiled"),
    ({"text": "a", "sampling_params": {"ebnf": "x"}}, 400, "root ::="),
    ({"text": "a", "sampling_params": {"json_schema": "{"}}, 400, "json_schema"),
    ({"text": "a", "sampling_params": {"logit_bias": {"a": 1}}}, 400, "keys are token ids"),
    ({"text": "a", "sampling_params": {"logit_bias": {"300": 1}}}, 400, "out of vocabulary"),
    ({"text": "a", "sampling_params": {"logit_bias": {"3": 1e39}}}, 400, "finite number"),
    ({"text": "a", "sampling_params": {"structural_tag": "x"}}, 400, "structural_tag"),
    ({"text": "a", "sampling_params": {"beam_width": 4}}, 400, "beam_width"),
    ({"text": "a", "input_embeds": [[0.1]]}, 400, "input_embeds"),
    ({"text": "a", "image_data": "x"}, 501, "image_data"),
    ({"text": "a", "session_params": {"id": "x"}}, 400, "session_params"),
    ({"text": "a", "custom_logit_processor": "x"}, 400, "custom_logit_processor"),
    ({"text": "a", "return_hidden_states": True}, 400, "return_hidden_states"),
    ({"text": "a", "lora_path": "nobody"}, 404, "no adapter 'nobody'"),
    ({"text": "a", "top_logprobs_num": 3}, 400, "needs return_logprob"),
    ({"text": "a", "return_logprob": True, "top_logprobs_num": 999}, 400, "top_logprobs"),
    ({"text": "a", "return_logprob": True, "top_logprobs_num": -1}, 400, "top_logprobs"),
    ({"text": "a", "return_logprob": True, "logprob_start_len": 2}, 400, "logprob_start_len"),
    ({"text": "a", "return_logprob": True, "token_ids_logprob": [[1]]}, 400, "flat list of int"),
    ({"text": "a", "return_logprob": True, "token_ids_logprob": [999]}, 400, "out of vocabulary"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "text"), REFUSED, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_by_name(
    client: httpx.Client, body: dict[str, Any], status: int, text: str, stream: bool
) -> None:
    answer = generate(client, status, **body, stream=stream)
    assert text in answer["error"]["message"]


# -- steering ------------------------------------------------------------------------


def in_background(client: httpx.Client, **body: Any) -> Any:
    """Starts a request; returns a function that waits for its answer."""
    box: list[Any] = []

    def run() -> None:
        box.append(client.post("/generate", json=body))

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> Any:
        thread.join(timeout=30)
        assert box
        return box[0].json()

    return wait


def test_abort_ends_exactly_the_one_named(client: httpx.Client, engine: Engine) -> None:
    one = in_background(client, text="x", sampling_params=ENDLESS, rid="job")
    two = in_background(client, text="x", sampling_params=ENDLESS, rid="job-2")
    until(lambda: engine.stats().running == 2)
    refused = generate(client, 400, text="x", rid="job")
    assert "in flight" in refused["error"]["message"]
    post(client, "/abort_request", {"rid": "jo"})
    post(client, "/abort_request", {"rid": "job"})
    answer = one()
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert len(answer["output_ids"]) == answer["meta_info"]["completion_tokens"]
    assert engine.stats().running == 1
    post(client, "/abort_request", {"rid": "job"})
    post(client, "/abort_request", {"abort_all": True})
    assert two()["meta_info"]["finish_reason"]["type"] == "abort"
    post(client, "/abort_request", {}, 400)


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_what_was_paused_goes_on_to_the_same_end(
    client: httpx.Client, engine: Engine, mode: str
) -> None:
    params = {"max_new_tokens": 1500} | GREEDY
    expected = generate(client, text="pause", sampling_params=params)["text"]
    waiting = in_background(client, text="pause", sampling_params=params)
    until(lambda: engine.stats().running == 1)
    assert post(client, "/pause_generation", {"mode": mode})["status"] == "ok"
    stats = engine.stats()
    assert (stats.running, stats.waiting) == ((1, 0) if mode == "in_place" else (0, 1))
    assert client.get("/server_info").json()["status"] == "paused"
    assert client.get("/health").status_code == 200
    steps = engine.stats().counts.steps
    late = in_background(client, text="late", sampling_params={"max_new_tokens": 1})
    until(lambda: engine.stats().waiting == stats.waiting + 1)
    assert engine.stats().counts.steps == steps
    assert client.post("/flush_cache").status_code == 400
    post(client, "/continue_generation", {})
    answer = waiting()
    assert answer["text"] == expected
    assert answer["meta_info"]["num_retractions"] == (0 if mode == "in_place" else 1)
    assert late()["meta_info"]["completion_tokens"] == 1


def test_pausing_by_default_aborts(client: httpx.Client, engine: Engine) -> None:
    waiting = in_background(client, text="x", sampling_params=ENDLESS)
    until(lambda: engine.stats().running == 1)
    post(client, "/pause_generation")
    assert waiting()["meta_info"]["finish_reason"]["type"] == "abort"
    post(client, "/continue_generation")
    post(client, "/pause_generation", {"mode": "sleep"}, 400)


def test_flush_waits_as_long_as_it_is_told(client: httpx.Client, engine: Engine) -> None:
    waiting = in_background(client, text="x", sampling_params={"max_new_tokens": 1500} | GREEDY)
    until(lambda: engine.stats().running == 1)
    post(client, "/pause_generation", {"mode": "in_place"})
    assert client.get("/flush_cache").status_code == 400
    assert client.get("/flush_cache?timeout=0.05").status_code == 400
    threading.Timer(0.1, engine.resume).start()
    assert client.get("/flush_cache?timeout=20").text.startswith("Cache flushed")
    assert engine.stats().cached_pages == 0
    assert waiting()["meta_info"]["completion_tokens"] == 1500
    assert client.get("/flush_cache?timeout=soon").status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine_within_a_step(
    client: httpx.Client, engine: Engine, stream: bool
) -> None:
    where = urlsplit(str(client.base_url))
    body = {"text": ["x", "y"], "stream": stream, "sampling_params": ENDLESS}
    connection = http.client.HTTPConnection(where.netloc, timeout=20)
    connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
    until(lambda: engine.stats().running == 2)
    connection.close()
    left = engine.stats().counts.steps
    until(lambda: engine.stats().running == 0)
    assert engine.stats().counts.steps - left < 300  # of 3500, on a machine that may be slow


@pytest.mark.parametrize("stream", [False, True])
def test_no_more_than_the_step_in_progress_is_computed_for_one_who_left(
    client: httpx.Client, engine: Engine, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._core.executor.forward

    def slow(batch: Any) -> Any:
        time.sleep(0.1)
        return forward(batch)

    monkeypatch.setattr(engine._core.executor, "forward", slow)
    body = {"text": "x", "stream": stream, "sampling_params": ENDLESS}
    connection = http.client.HTTPConnection(urlsplit(str(client.base_url)).netloc, timeout=20)
    connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
    until(lambda: engine.heartbeat.steps > 0 and engine.stats().running == 1)
    connection.close()
    before = engine.heartbeat.steps
    until(lambda: engine.stats().running == 0)
    assert engine.heartbeat.steps - before <= 2  # the one in progress, and one that had begun


# -- information ---------------------------------------------------------------------


def test_information_has_the_fields_that_clients_read(client: httpx.Client) -> None:
    for path in ("/model_info", "/get_model_info"):
        info = client.get(path).json()
        assert (info["model_path"], info["is_generation"]) == ("tiny", True)
        assert info["architectures"] == ["LlamaForCausalLM"]
    for path in ("/server_info", "/get_server_info"):
        info = client.get(path).json()
        assert info["page_size"] == 16
        assert info["max_total_num_tokens"] == 16 * info["internal_states"][0]["num_pages"]
    for path in ("/health", "/health_generate"):
        assert client.get(path).json() == {"status": "ok"}


def test_texts_and_ids_go_both_ways(client: httpx.Client) -> None:
    answer = post(client, "/tokenize", {"prompt": "h\u00e9"})
    assert answer == {"tokens": [104, 195, 169], "count": 3, "max_model_len": 4096}
    answer = post(client, "/v1/tokenize", {"prompt": ["a", "bc"], "model": "tiny"})
    assert (answer["tokens"], answer["count"]) == ([[97], [98, 99]], [1, 2])
    chat = post(client, "/tokenize", {"messages": [{"role": "user", "content": "x"}]})
    assert chat["tokens"] == TINY.tokenizer.chat([{"role": "user", "content": "x"}])
    assert post(client, "/detokenize", {"tokens": [104, 258, 105]}) == {"text": "hi"}
    shown = {"tokens": [[104, 258]], "skip_special_tokens": False}
    assert post(client, "/detokenize", shown) == {"text": ["h<|im_end|>"]}
    post(client, "/detokenize", {"tokens": [999]}, 400)
    post(client, "/tokenize", {"prompt": "x" * 1_000_001}, 400)
    post(client, "/detokenize", {"tokens": [[1] * 500_001] * 2}, 400)
    post(client, "/tokenize", {"messages": [{"role": "user", "content": [1]}]}, 400)
    post(client, "/tokenize", {"prompt": "x", "messages": []}, 400)


# -- weights -------------------------------------------------------------------------


def adapter_at(path: Path, seed: int = 0) -> Path:
    weights = LoraWeights.init(LoraConfig(rank=4), TINY.config, seed)
    generator = torch.Generator().manual_seed(seed)
    for _, b in weights.tensors.values():
        b.normal_(generator=generator)
    save_peft(weights, path, "tiny")
    return path


def test_adapters_come_and_go(client: httpx.Client, engine: Engine, tmp_path: Path) -> None:
    where = str(adapter_at(tmp_path / "one"))
    answer = post(client, "/load_lora_adapter", {"lora_name": "one", "lora_path": where})
    assert answer == {"success": True, "error_message": "", "loaded_adapters": {"one": where}}
    again = post(client, "/load_lora_adapter", {"lora_name": "one", "lora_path": where}, 400)
    assert "loaded already" in again["error_message"]
    params = {"max_new_tokens": 8} | GREEDY
    mixed = generate(client, text=["q", "q"], lora_path=["one", None], sampling_params=params)
    assert mixed[0]["text"] != mixed[1]["text"]
    assert [a["meta_info"]["weight_version"] for a in mixed] == ["1", "default"]
    waiting = in_background(client, text="x", lora_path="one", sampling_params=ENDLESS)
    until(lambda: engine.stats().running == 1)
    busy = post(client, "/unload_lora_adapter", {"lora_name": "one"}, 400)
    assert "in use" in busy["error_message"] and busy["loaded_adapters"] == {"one": where}
    post(client, "/abort_request", {"abort_all": True})
    waiting()
    assert post(client, "/unload_lora_adapter", {"lora_name": "one"})["loaded_adapters"] == {}
    gone = post(client, "/unload_lora_adapter", {"lora_name": "one"}, 400)
    assert "no adapter 'one'" in gone["error_message"]


def test_adapters_that_hold_code_or_do_not_fit_are_refused(
    client: httpx.Client, tmp_path: Path
) -> None:
    trap = adapter_at(tmp_path / "trap")
    (trap / "adapter_model.safetensors").unlink()
    (trap / "adapter_model.bin").write_bytes(pickle.dumps(print))
    wide = adapter_at(tmp_path / "wide")
    tensors = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(4, 9)}
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"] = torch.zeros(128, 4)
    save_file(tensors, wide / "adapter_model.safetensors")
    for where, reason in [
        (trap, "pickle"),
        (wide, "on another model?"),
        (tmp_path / "none", "adapter_config.json"),
    ]:
        body = {"lora_name": "bad", "lora_path": str(where)}
        answer = post(client, "/load_lora_adapter", body, 400)
        assert reason in answer["error_message"]
        assert (answer["success"], answer["loaded_adapters"]) == (False, {})


def test_weights_by_name_are_those_that_compute(client: httpx.Client) -> None:
    for name in ("embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "norm.weight"):
        values = post(client, "/get_weights_by_name", {"name": name, "truncate_size": 3})
        expected = TINY.weights.dense(name.removeprefix("model."))[:3]
        torch.testing.assert_close(torch.tensor(values), expected)
    assert len(client.get("/get_weights_by_name?name=norm.weight").json()) == 64
    answer = post(client, "/get_weights_by_name", {"name": "norm.wieght"}, 400)
    assert "Did you mean 'norm.weight'" in answer["error"]["message"]
    post(client, "/get_weights_by_name", {"name": "norm.weight", "truncate_size": 0}, 400)


def greedy_text(client: httpx.Client) -> str:
    params = {"max_new_tokens": 12} | GREEDY
    return str(generate(client, text="weights", sampling_params=params)["text"])


def upload(client: httpx.Client, data: bytes, status: int = 200, query: str = "") -> Any:
    headers = {"Content-Type": "application/octet-stream"}
    response = client.post(f"/update_weights_from_tensor{query}", content=data, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


def test_new_weights_are_used_named_and_share_no_page_with_the_old(client: httpx.Client) -> None:
    old, new = dict(TINY.weights), dict(tiny_weights(seed=1))
    before = greedy_text(client)
    answer = upload(client, save(new), query="?weight_version=step-7")
    assert answer == {
        "success": True,
        "message": "Weights of version step-7 are in use.",
        "num_paused_requests": 0,
    }
    made = generate(client, text="weights", sampling_params={"max_new_tokens": 12} | GREEDY)
    assert made["text"] != before
    assert made["meta_info"]["weight_version"] == "step-7"
    assert made["meta_info"]["cached_tokens"] == 0
    assert client.get("/model_info").json()["weight_version"] == "step-7"
    # their names of Hugging Face, in two parts, a tied output given twice
    named = {f"model.{name}": tensor for name, tensor in old.items()}
    parts = [dict(list(named.items())[:5]), dict(list(named.items())[5:])]
    parts[1]["lm_head.weight"] = old["embed_tokens.weight"].clone()
    texts = [base64.b64encode(save(part)).decode() for part in parts]
    post(client, "/update_weights_from_tensor", {"serialized_named_tensors": texts})
    assert greedy_text(client) == before
    made = generate(client, text="x", sampling_params={"max_new_tokens": 1})
    assert made["meta_info"]["weight_version"] == "2"


def test_weights_from_disk(client: httpx.Client, tmp_path: Path) -> None:
    import dataclasses

    before = greedy_text(client)
    export_model(dataclasses.replace(TINY, weights=tiny_weights(seed=2)), tmp_path / "new")
    body = {"model_path": str(tmp_path / "new"), "weight_version": "disk"}
    assert post(client, "/update_weights_from_disk", body)["success"] is True
    assert greedy_text(client) != before
    post(client, "/update_weights_from_disk", {"model_path": "tiny"})
    assert greedy_text(client) == before


def test_an_update_that_fails_changes_nothing(
    client: httpx.Client, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = greedy_text(client), engine.stats().weight_version
    new = dict(tiny_weights(seed=3))
    whole = save(new)
    broken = {**new, "norm.weight": torch.full((64,), float("nan"))}
    small = {name: tensor for name, tensor in new.items() if name != "norm.weight"}
    wide = {**new, "norm.weight": torch.ones(65)}
    for data, reason in [
        (pickle.dumps(new), "pickle"),
        (b"PK\x03\x04" + bytes(40), "pickle"),
        (b"junk" * 40, "no safetensors"),
        (whole[:-10], "no safetensors"),
        (whole[:4], "no safetensors"),
        (save(broken), "not finite"),
        (save(small), "norm.weight"),
        (save(wide), "norm.weight"),
        (save({**new, "extra": torch.ones(1)}), "extra"),
        (save({**new, "norm.weight": torch.ones(64, dtype=torch.int64)}), "floating point"),
    ]:
        answer = upload(client, data, 400)
        assert answer["success"] is False and reason in answer["message"]
    upload(client, b"", 400)
    upload(client, whole, 400, "?flush_cache=false")
    upload(client, whole, 400, "?weight_versoin=1")
    for values in ({"serialized_named_tensors": ["%%"]}, {"serialized_named_tensors": []}, {}):
        post(client, "/update_weights_from_tensor", values, 400)
    for path in ("/nowhere", "smollm2-1m", str(tmp_path)):
        post(client, "/update_weights_from_disk", {"model_path": path}, 400)
    export_model(TINY, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    post(client, "/update_weights_from_disk", {"model_path": str(tmp_path / "cut")}, 400)

    from evolute.kernels import PackedLinear

    calls, pack = [], PackedLinear.from_float32

    def full(weight: Any) -> Any:
        calls.append(0)
        if len(calls) > 9:
            raise MemoryError("no room for the tenth matrix")
        return pack(weight)

    monkeypatch.setattr(PackedLinear, "from_float32", full)
    answer = upload(client, whole, 400)
    assert "no room" in answer["message"] and len(calls) >= 10  # other threads had begun more
    monkeypatch.undo()
    assert greedy_text(client) == before
    assert engine.stats().weight_version == version
    assert client.get("/health").status_code == 200


def test_updates_can_end_what_runs_or_let_it_go_on(client: httpx.Client, engine: Engine) -> None:
    waiting = in_background(client, text="x", sampling_params=ENDLESS)
    until(lambda: engine.stats().running == 1)
    post(client, "/pause_generation", {"mode": "in_place"})
    body = {"model_path": "tiny", "keep_pause": True}
    assert post(client, "/update_weights_from_disk", body)["num_paused_requests"] == 1
    assert engine.stats().running == 1
    body |= {"abort_all_requests": True}
    assert post(client, "/update_weights_from_disk", body)["num_paused_requests"] == 0
    assert waiting()["meta_info"]["finish_reason"]["type"] == "abort"
    post(client, "/continue_generation", {})


def test_the_openapi_document_has_every_path_and_its_fields(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "$defs" not in json.dumps(document)
    paths = document["paths"]
    assert {"/generate", "/v1/completions", "/health", "/flush_cache"} <= paths.keys()
    assert "/v1/embeddings" not in paths
    body = paths["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False
    one = body["properties"]["sampling_params"]["anyOf"][0]
    assert {"stop_regex", "sampling_seed", "ebnf"} <= one["properties"].keys()
    for path, operations in paths.items():
        for method, operation in operations.items():
            no_body = (
                method in ("get", "delete") or path == "/flush_cache" or path.endswith("/cancel")
            )
            assert no_body or "requestBody" in operation, path
