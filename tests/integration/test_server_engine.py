"""The server on a real engine with the tiny model."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.server import create_app, serve_in_thread
from evolute.testing import until
from evolute.types import SamplingParams


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Engine, openai.OpenAI]]:
    with Engine("tiny") as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            yield engine, client
        server.stop()


def test_greedy_text_over_http_is_the_engines(served: tuple[Engine, openai.OpenAI]) -> None:
    engine, client = served
    (local,) = engine.generate("hello", SamplingParams(max_new_tokens=12, temperature=0))
    call: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 12}
    whole = client.completions.create(**call, temperature=0)
    chunks = list(client.completions.create(**call, temperature=0, stream=True))
    assert whole.choices[0].text == local.text
    assert "".join(chunk.choices[0].text for chunk in chunks) == local.text


def test_chat_under_a_schema_is_json(served: tuple[Engine, openai.OpenAI]) -> None:
    _, client = served
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "go"}],
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        max_tokens=400,
        seed=1,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content or "")["a"] in (1, 2)


def test_a_bad_grammar_is_400_and_the_engine_goes_on(
    served: tuple[Engine, openai.OpenAI],
) -> None:
    _, client = served
    with pytest.raises(openai.BadRequestError, match="regex cannot be compiled"):
        client.completions.create(model="tiny", prompt="x", extra_body={"regex": "("})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x" * 9000, stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert client.completions.create(model="tiny", prompt="x").usage is not None


def test_a_text_prompt_has_the_same_tokens_over_http_and_from_the_engine() -> None:
    """A tokenizer that begins texts with a token of its own does so on both ways."""
    from tokenizers.processors import TemplateProcessing

    model = load_model("tiny")
    model.tokenizer.tokenizers.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    with Engine(model) as engine:
        (local,) = engine.generate("hello", SamplingParams(max_new_tokens=12, temperature=0))
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            far = client.completions.create(
                model="tiny", prompt="hello", max_tokens=12, temperature=0
            )
        server.stop()
    assert far.usage is not None and far.usage.prompt_tokens == local.prompt_tokens == 6
    assert far.choices[0].text == local.text


def test_samples_stops_logprobs_echo_and_usage(served: tuple[Engine, openai.OpenAI]) -> None:
    engine, client = served
    sampling = SamplingParams(
        max_new_tokens=12, temperature=0.8, seed=4, n=3, top_logprobs=2, prompt_logprobs=True
    )
    local = engine.generate(["abc", "wxyz"], sampling)
    call: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "temperature": 0.8, "seed": 4}
    whole = client.completions.create(**call, prompt=["abc", "wxyz"], n=3, logprobs=2)
    assert [c.text for c in whole.choices] == [o.text for o in local]
    assert [c.finish_reason for c in whole.choices] == [str(o.finish_reason) for o in local]
    for choice, output in zip(whole.choices, local, strict=True):
        assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(output.logprobs, abs=1e-4)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 7
    assert whole.usage.completion_tokens == sum(len(o.token_ids) for o in local)
    stream = client.completions.create(
        **call, prompt="abc", n=3, stream=True, stream_options={"include_usage": True}
    )
    texts = ["", "", ""]
    for chunk in stream:
        for part in chunk.choices:
            texts[part.index] += part.text
    assert texts == [o.text for o in local[:3]]
    assert chunk.usage is not None and chunk.usage.prompt_tokens == 3
    echo = client.completions.create(**call, prompt="abc", echo=True, logprobs=0)
    assert echo.choices[0].text == "abc" + local[0].text
    told = echo.choices[0].logprobs
    assert told is not None and told.token_logprobs is not None
    assert told.token_logprobs[0] is None  # type: ignore[comparison-overlap]
    assert told.token_logprobs[1:3] == pytest.approx(local[0].prompt_logprobs[1:], abs=1e-4)
    middle = local[0].text[2:4]
    stopped = client.completions.create(**call, prompt="abc", stop=middle)
    assert stopped.choices[0].text == local[0].text[: local[0].text.index(middle)]
    assert stopped.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(
    served: tuple[Engine, openai.OpenAI], stream: bool
) -> None:
    engine, client = served
    base = urlsplit(str(client.base_url))
    body = {"prompt": "x", "max_tokens": 3000, "stream": stream, "ignore_eos": True}
    connection = http.client.HTTPConnection(base.netloc, timeout=20)
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    until(lambda: engine.stats().running)
    connection.close()
    until(lambda: not engine.stats().running)
    assert engine.stats().counts.output_tokens < 3000
    engine.check()


def test_status_pages_and_unknown_names(served: tuple[Engine, openai.OpenAI]) -> None:
    _, client = served
    root = str(client.base_url).removesuffix("/v1/")
    assert httpx.get(f"{root}/health").json() == {"status": "ok"}
    text = httpx.get(f"{root}/metrics").text
    assert "output_tokens_total" in text and "request_s" in text
    assert [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError, match="Did you mean 'max_tokens'"):
        client.completions.create(model="tiny", prompt="x", extra_body={"max_token": 3})
    with pytest.raises(openai.BadRequestError, match="259 in logit_bias"):
        client.completions.create(model="tiny", prompt="x", logit_bias={"259": 1})
