"""The server on a real engine with the tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
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
