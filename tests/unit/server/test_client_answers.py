"""The client's side of the wire, without a wire: other endpoints than our own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from evolute.server.client import answers
from evolute.server.client.answers import Dialect
from evolute.testing import ByteTokenizer
from evolute.types import (
    BackendError,
    ConfigError,
    EvoluteError,
    FinishReason,
    GenerateRequest,
    NotSupported,
    OutOfCapacity,
    SamplingParams,
)

REQUEST = GenerateRequest((1, 2), SamplingParams(max_new_tokens=3, seed=4), adapter="ann")


def answer(**choice: Any) -> dict[str, Any]:
    whole = {"index": 0, "text": "hi", "logprobs": None, "finish_reason": "length"} | choice
    return {"choices": [whole], "usage": {"prompt_tokens": 9}}


def test_another_endpoint_gets_standard_fields_only() -> None:
    body = answers.payload(REQUEST, "gpt", Dialect.OPENAI)
    known = {"model", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "logprobs"}
    assert set(body) == known | {"frequency_penalty", "presence_penalty"}
    assert (body["model"], body["prompt"], body["seed"]) == ("ann", [1, 2], 4)


def test_a_session_is_a_hint_that_our_own_servers_get() -> None:
    asked = dataclasses.replace(REQUEST, session="talk 7")
    assert answers.payload(asked, "gpt", Dialect.EVOLUTE)["prompt_cache_key"] == "talk 7"
    assert "prompt_cache_key" not in answers.payload(REQUEST, "gpt", Dialect.EVOLUTE)
    assert "prompt_cache_key" not in answers.payload(asked, "gpt", Dialect.OPENAI)


@pytest.mark.parametrize("setting", [{"top_k": 4}, {"regex": "a"}, {"top_logprobs": 1}])
def test_what_another_endpoint_cannot_express_is_refused_by_name(setting: dict[str, Any]) -> None:
    request = GenerateRequest((1,), SamplingParams(**setting))
    with pytest.raises(NotSupported, match=next(iter(setting))):
        answers.payload(request, "gpt", Dialect.OPENAI)


def test_tokens_of_another_endpoint_are_found_by_the_tokenizer() -> None:
    (output,) = answers.outputs(answer(), REQUEST, Dialect.OPENAI, ByteTokenizer())
    assert output.token_ids == (104, 105)
    assert all(math.isnan(value) for value in output.logprobs)
    assert (output.finish_reason, output.prompt_tokens) == (FinishReason.LENGTH, 9)
    told = {"tokens": ["h", "i"], "token_logprobs": [-1.0, -2.0]}
    (output,) = answers.outputs(answer(logprobs=told), REQUEST, Dialect.OPENAI, ByteTokenizer())
    assert output.logprobs == (-1.0, -2.0)
    with pytest.raises(ConfigError, match="tokenizer="):
        answers.outputs(answer(), REQUEST, Dialect.OPENAI, None)


@pytest.mark.parametrize("bad", [{}, {"choices": [{}]}, {"choices": [{"index": 7, "text": ""}]}])
def test_an_answer_that_is_none_is_a_backend_error(bad: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        answers.outputs(bad, REQUEST, Dialect.EVOLUTE, None)


def test_a_stream_that_stops_early_is_a_backend_error() -> None:
    reader = answers.StreamReader(REQUEST, Dialect.EVOLUTE, None)
    list(reader.push(answer(finish_reason=None)))
    with pytest.raises(BackendError, match="ended before choice 0"):
        list(reader.finish())


def test_failures_keep_what_the_status_says() -> None:
    full = answers.failure({"error": {"message": "full"}}, 503, "7")
    assert isinstance(full, OutOfCapacity) and full.retry_after_s == 7
    assert isinstance(answers.failure({"error": "text"}, 500), EvoluteError)
    assert "text" in str(answers.failure({"error": "text"}, 500))
