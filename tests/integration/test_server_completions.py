"""The less common fields of /v1/completions and chat, through the official client, on an engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
from evolute.types import SamplingParams

Served = tuple[Engine, openai.OpenAI]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Engine("tiny") as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            yield engine, client
        server.stop()


def test_scoring_without_generating(served: Served) -> None:
    engine, client = served
    answer = client.completions.create(
        model="tiny", prompt=["abcd", "xy"], echo=True, logprobs=2, max_tokens=0
    )
    for choice, text in zip(answer.choices, ("abcd", "xy"), strict=True):
        told: Any = choice.logprobs
        assert choice.text == text and told.tokens == list(text)
        assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
        sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
        (local,) = engine.generate(text, sampling)
        assert told.token_logprobs[1:] == pytest.approx(local.prompt_logprobs[1:], abs=1e-4)
        for value, ranked in zip(told.token_logprobs[1:], told.top_logprobs[1:], strict=True):
            assert len(ranked) <= 2 and value <= max(ranked.values()) + 1e-6
        assert told.text_offset == list(range(len(text)))
    assert answer.usage is not None and answer.usage.completion_tokens == 0


def test_echoed_scores_are_those_of_generation(served: Served) -> None:
    """What a token had when it was made, it has when the text is scored."""
    _, client = served
    call: dict[str, Any] = {"model": "tiny", "logprobs": 3}
    made: Any = client.completions.create(**call, prompt=[5, 6, 7], max_tokens=8, seed=2)
    ids = [5, 6, 7, *[int(i) for i in _ids(client, [5, 6, 7], seed=2)]]
    scored: Any = client.completions.create(**call, prompt=ids, max_tokens=1, echo=True)
    told = scored.choices[0].logprobs
    fresh = made.choices[0].logprobs
    size = len(fresh.tokens)
    assert told.tokens[3 : 3 + size] == fresh.tokens
    assert told.token_logprobs[3 : 3 + size] == pytest.approx(fresh.token_logprobs, abs=1e-3)
    assert len(told.tokens) == len(ids) + 1


def _ids(client: openai.OpenAI, prompt: list[int], seed: int) -> list[int]:
    answer = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=8, seed=seed, extra_body={"return_token_ids": True}
    )
    found: Any = answer.choices[0]
    return list(found.token_ids)


def test_the_second_time_a_prompt_is_cached(served: Served) -> None:
    _, client = served
    call: dict[str, Any] = {"model": "tiny", "prompt": "a prompt of some length " * 8}
    client.completions.create(**call, max_tokens=2)
    again = client.completions.create(**call, max_tokens=2)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 100


def test_counts_in_every_chunk(served: Served) -> None:
    _, client = served
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    for stream in (
        client.completions.create(
            model="tiny", prompt="abc", max_tokens=6, stream=True, stream_options=options
        ),
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "x"}],
            max_tokens=6,
            stream=True,
            stream_options=options,
        ),
    ):
        counts = [chunk.usage for chunk in stream]  # type: ignore[attr-defined]
        assert all(count is not None for count in counts)
        numbers = [count.completion_tokens for count in counts]
        assert numbers == sorted(numbers) and numbers[-1] <= 6
        assert len({count.prompt_tokens for count in counts}) == 1


def test_bias_and_stops(served: Served) -> None:
    _, client = served
    only_a = client.completions.create(
        model="tiny", prompt="x", max_tokens=5, logit_bias={"97": 100}, temperature=0
    )
    assert only_a.choices[0].text == "aaaaa"
    stopped: Any = client.completions.create(
        model="tiny",
        prompt="x",
        max_tokens=9,
        logit_bias={"97": 100},
        temperature=0,
        extra_body={"stop_regex": "a{3}", "include_stop": True},
    ).choices[0]
    assert (stopped.text, stopped.finish_reason) == ("aaa", "stop")
    with pytest.raises(openai.BadRequestError, match="stop_regex"):
        client.completions.create(model="tiny", prompt="x", extra_body={"stop_regex": "("})


def test_grammars_by_their_other_names(served: Served) -> None:
    _, client = served
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=20,
        extra_body={"ebnf": 'root ::= "yes" | "no"'},
    )
    assert answer.choices[0].message.content in ("yes", "no")


def test_a_turn_that_was_begun_is_continued(served: Served) -> None:
    engine, client = served
    turns: Any = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "so far "}]
    answer = client.chat.completions.create(
        model="tiny",
        messages=turns,
        temperature=0,
        max_tokens=8,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    ids = engine.tokenizer.chat(turns, continue_final_message=True)  # type: ignore[call-arg]
    (local,) = engine.generate([ids], SamplingParams(max_new_tokens=8, temperature=0))
    assert answer.choices[0].message.content == local.text


class Answer(pydantic.BaseModel):
    yes: bool
    kinds: list[Literal[1, 2]] = pydantic.Field(min_length=1, max_length=3)


def test_a_parsed_answer_and_a_parsed_call(served: Served) -> None:
    _, client = served
    ask: Any = [{"role": "user", "content": "x"}]
    parsed = client.chat.completions.parse(
        model="tiny", messages=ask, response_format=Answer, temperature=0, max_tokens=900
    )
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    called = client.chat.completions.parse(
        model="tiny",
        messages=ask,
        tools=[openai.pydantic_function_tool(Answer, name="answer")],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=900,
    )
    calls: Any = called.choices[0].message.tool_calls
    assert isinstance(calls[0].function.parsed_arguments, Answer)


def test_a_stream_helper_sees_the_calls(served: Served) -> None:
    _, client = served
    with client.chat.completions.stream(
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        tools=[openai.pydantic_function_tool(Answer, name="answer")],
        tool_choice={"type": "function", "function": {"name": "answer"}},
        temperature=0,
        max_tokens=900,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    calls: Any = final.choices[0].message.tool_calls
    assert isinstance(calls[0].function.parsed_arguments, Answer)


def test_errors_are_the_clients_own(served: Served) -> None:
    engine, client = served
    ask: Any = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nope", messages=ask)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=[])
    assert bad.value.param == "messages"
    app = create_app(engine, served_names=["tiny"], api_keys=["secret"])
    server = serve_in_thread(app)
    try:
        guarded = client.with_options(base_url=f"{server.url}/v1")
        with pytest.raises(openai.AuthenticationError):
            guarded.responses.create(model="tiny", input="x", max_output_tokens=2)
        known = guarded.with_options(api_key="secret")
        assert known.responses.create(model="tiny", input="x", max_output_tokens=2).id
        assert [model.id for model in known.models.list()] == ["tiny"]
    finally:
        server.stop()


def test_a_conversation_that_can_never_fit_is_refused_at_once(served: Served) -> None:
    _, client = served
    huge: Any = [{"role": "user", "content": "a b " * 1_000_000}]
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError, match="at least") as caught:
        client.chat.completions.create(model="tiny", messages=huge)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at least"):
        client.responses.create(model="tiny", input=huge[0]["content"])
    assert time.monotonic() - began < 10  # cut into tokens, it takes many times as long
