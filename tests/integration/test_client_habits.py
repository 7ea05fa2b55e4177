"""What programs on the official clients do beside asking once: retries, raw answers, time limits,
agents' loops, helpers for streams, conversations that echo what came back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import anthropic
import openai
import pydantic
import pytest

from evolute.models.chat_template import CHATML
from evolute.models.tiny import tiny_tokenizer
from evolute.models.tokenizer import ChatTokenizer
from evolute.server import RunningServer
from evolute.server.limits import TooManyRequests
from evolute.testing import ScriptedBackend
from evolute.types import OutOfCapacity

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call>'
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
ASK: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


class Both:
    """A scripted server with a client of either kind on it."""

    def __init__(self, script: Any, serve: Callable[..., RunningServer], **settings: Any) -> None:
        words = tiny_tokenizer().tokenizers
        tokenizer = ChatTokenizer(words, eos_token_id=258, template=CHATML)
        self.backend = ScriptedBackend(script, tokenizer=tokenizer, **settings)
        self.url = serve(self.backend).url
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="k", max_retries=2)
        self.anthropic = anthropic.Anthropic(base_url=self.url, api_key="k", max_retries=2)

    def said(self) -> str:
        """The last prompt."""
        prompt = self.backend.requests[-1].prompt
        return self.backend.tokenizer.decode(prompt, skip_special_tokens=False)


@pytest.fixture
def both(serve: Callable[..., RunningServer]) -> Iterator[Callable[..., Both]]:
    with contextlib.ExitStack() as clients:

        def begin(script: Any = ("ok",), **settings: Any) -> Both:
            made = Both(script, serve, **settings)
            clients.enter_context(made.openai)
            clients.enter_context(made.anthropic)
            return made

        yield begin


# -- retries, raw answers, time limits ---------------------------------------------------


@pytest.mark.parametrize("error", [OutOfCapacity("full", 0.4), TooManyRequests("slow down", 0.4)])
def test_clients_come_back_when_they_are_told_to(both: Any, error: Exception) -> None:
    made = both([error, "ok", error, "ok"])
    began = time.monotonic()
    raw = made.openai.chat.completions.with_raw_response.create(**ASK)
    assert raw.parse().choices[0].message.content == "ok"
    assert raw.retries_taken == 1
    again = made.anthropic.messages.with_raw_response.create(**ASK, max_tokens=9)
    assert again.retries_taken == 1 and again.parse().content[0].text == "ok"
    assert time.monotonic() - began >= 2  # Retry-After is in whole seconds, at least one
    assert len(made.backend.requests) == 4


def test_what_can_never_be_had_is_not_tried_again(both: Any) -> None:
    made = both()
    sent: list[Any] = []
    made.openai._client.event_hooks["request"] = [sent.append]
    with pytest.raises(openai.InternalServerError, match="embedding model") as caught:
        made.openai.embeddings.create(model="base", input="x")
    assert caught.value.status_code == 501 and len(sent) == 1
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        made.openai.chat.completions.create(**ASK, reasoning_effort="high")
    assert len(sent) == 2 and made.backend.requests == []


def test_raw_and_streamed_answers_are_the_parsed_ones(both: Any) -> None:
    made = both(["hello"])
    raw = made.openai.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["content-type"] == "application/json"
    assert json.loads(raw.text)["choices"][0]["message"]["content"] == "hello"
    with made.openai.chat.completions.with_streaming_response.create(**ASK, stream=True) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in events.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    with made.anthropic.messages.with_streaming_response.create(**ASK, max_tokens=9) as answer:
        assert answer.parse().content[0].text == "hello"


def test_a_client_that_gives_up_aborts(both: Any) -> None:
    made = both(["x" * 4000], delay_s=0.02)
    with pytest.raises(openai.APITimeoutError):
        made.openai.with_options(timeout=0.4, max_retries=0).chat.completions.create(**ASK)
    with pytest.raises(anthropic.APITimeoutError):
        made.anthropic.with_options(timeout=0.4, max_retries=0).messages.create(
            **ASK, max_tokens=3000
        )

    async def leave_early() -> None:
        async with openai.AsyncOpenAI(base_url=f"{made.url}/v1", api_key="k") as client:
            stream = await client.chat.completions.create(**ASK, stream=True)
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(leave_early())
    deadline = time.monotonic() + 5
    while len(made.backend.cancelled) < 3:
        assert time.monotonic() < deadline, made.backend.cancelled
        time.sleep(0.01)


# -- agents' loops -----------------------------------------------------------------------


def test_a_chat_loop_sends_back_what_came(both: Any) -> None:
    made = both([f"I look. {CALL}", "it rains"])
    messages: list[Any] = list(ASK["messages"])
    first = made.openai.chat.completions.create(model="base", messages=messages, tools=[WEATHER])
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls or []:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    second = made.openai.chat.completions.create(model="base", messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "it rains"
    assert '{"name": "weather", "arguments": {"city": "Ulm"}}' in made.said()
    assert "<tool_response>\nrain" in made.said()


class Place(pydantic.BaseModel):
    city: str


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own
def test_a_parsed_message_can_be_sent_back(both: Any) -> None:
    made = both(['{"city": "Ulm"}', "ok", CALL, "ok"])
    asked: list[Any] = list(ASK["messages"])
    parse = made.openai.chat.completions.parse
    answer = parse(model="base", messages=asked, response_format=Place).choices[0].message
    assert answer.parsed == Place(city="Ulm")
    made.openai.chat.completions.create(model="base", messages=[*asked, answer, *asked])
    assert 'assistant\n{"city": "Ulm"}<|im_end|>' in made.said()
    tool = openai.pydantic_function_tool(Place, name="weather")
    answer = parse(model="base", messages=asked, tools=[tool]).choices[0].message
    (call,) = answer.tool_calls
    assert call.function.parsed_arguments == Place(city="Ulm")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    made.openai.chat.completions.create(
        model="base", messages=[*asked, answer, result], tools=[tool]
    )
    assert "<tool_response>\nrain" in made.said()


def test_a_response_loop_sends_back_what_came(both: Any) -> None:
    made = both([CALL, "it rains"])
    tool: Any = {"type": "function", "name": "weather", "parameters": PLACE, "strict": False}
    items: list[Any] = [{"role": "user", "content": "weather?"}]
    with made.openai.responses.stream(model="base", input=items, tools=[tool]) as stream:
        kinds = {event.type for event in stream}
        first = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    items += first.output
    for call in first.output:
        assert call.type == "function_call"
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    counted = made.openai.responses.input_tokens.count(model="base", input=items, tools=[tool])
    second = made.openai.responses.create(model="base", input=items, tools=[tool])
    assert second.output_text == "it rains"
    assert (
        counted.input_tokens == second.usage.input_tokens == len(made.backend.requests[-1].prompt)
    )
    built = made.openai.responses.create(
        model="base", input="sure?", previous_response_id=second.id, tools=[tool]
    )
    assert built.previous_response_id == second.id
    assert made.said().index("it rains") < made.said().index("sure?")


def test_a_response_ends_at_a_stop_and_passes_the_end_when_told(both: Any) -> None:
    made = both(["one two three"])
    extra = {"stop": "two", "ignore_eos": True}
    answer = made.openai.responses.create(model="base", input="x", extra_body=extra)
    assert answer.output_text == "one "
    assert made.backend.requests[-1].sampling.ignore_eos


def test_hints_about_the_cache_are_taken(both: Any) -> None:
    made = both(["ok"])
    chat = made.openai.chat.completions.create(**ASK, prompt_cache_key="a")
    turn = made.openai.responses.create(model="base", input="hi", prompt_cache_key="a")
    hint = {"prompt_cache_key": "a"}  # completions have it with us alone
    text = made.openai.completions.create(model="base", prompt="hi", extra_body=hint)
    assert chat.choices[0].message.content == turn.output_text == text.choices[0].text == "ok"
    assert [request.session for request in made.backend.requests] == ["a", "a", "a"]


def test_anthropics_own_loop_runs_the_tools(both: Any) -> None:
    made = both([f"I look. {CALL}", "it rains"])
    seen = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Of a city.

        Args:
            city: its name
        """
        seen.append(city)
        return "rain"

    runner = made.anthropic.beta.messages.tool_runner(**ASK, max_tokens=400, tools=[weather])
    assert runner.until_done().content[0].text == "it rains"
    assert seen == ["Ulm"]
    assert "<tool_response>\nrain" in made.said()
    assert len(made.backend.requests) == 2  # one more was refused: it asked for a thread


def test_beta_messages_are_messages(both: Any) -> None:
    made = both(["hello"])
    asked = {**ASK, "max_tokens": 9, "betas": ["prompt-caching-2024-07-31"]}
    assert made.anthropic.beta.messages.create(**asked).content[0].text == "hello"
    del asked["max_tokens"]
    counted = made.anthropic.beta.messages.count_tokens(**asked)
    assert counted.input_tokens == len(made.backend.requests[-1].prompt)


# -- streams through the helpers ----------------------------------------------------------


def test_an_async_stream_of_calls_is_put_together_by_the_client(both: Any) -> None:
    made = both([f"I look. {CALL}{CALL}"])

    async def run() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=f"{made.url}/v1", api_key="k") as client:
            manager = client.chat.completions.stream(
                **ASK, tools=[WEATHER], stream_options={"include_usage": True}
            )
            async with manager as stream:
                kinds = [event.type async for event in stream]
                chat = await stream.get_final_completion()
        async with anthropic.AsyncAnthropic(base_url=made.url, api_key="k") as client:
            tool: Any = {"name": "weather", "input_schema": PLACE}
            async with client.messages.stream(**ASK, max_tokens=900, tools=[tool]) as stream:
                inputs = [e.snapshot async for e in stream if e.type == "input_json"]
                message = await stream.get_final_message()
        assert kinds.count("tool_calls.function.arguments.done") == 2
        assert inputs[-1] == {"city": "Ulm"}
        return chat, message

    chat, message = asyncio.run(run())
    calls = chat.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Ulm"}] * 2
    assert chat.choices[0].finish_reason == "tool_calls" and chat.usage.completion_tokens > 100
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert message.usage.output_tokens == chat.usage.completion_tokens


@pytest.mark.parametrize("n", [1, 3])
def test_samples_and_logprobs_come_through_the_helper(both: Any, n: int) -> None:
    made = both(["abc"])
    with made.openai.chat.completions.stream(
        **ASK, n=n, logprobs=True, top_logprobs=2, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    whole = made.openai.chat.completions.create(**ASK, n=n, logprobs=True, top_logprobs=2)
    assert kinds.count("content.done") == n
    for mine, other in zip(final.choices, whole.choices, strict=True):
        assert mine.message.content == other.message.content == "abc"
        assert mine.logprobs.to_dict() == other.logprobs.to_dict()
        assert mine.finish_reason == other.finish_reason == "stop"
    assert final.usage.to_dict() == whole.usage.to_dict()


class Answer(pydantic.BaseModel):
    yes: bool
    kind: Literal[1, 2]


def test_streams_are_parsed_as_they_come(tiny: openai.OpenAI, tiny_url: str) -> None:
    ask: Any = {"messages": [{"role": "user", "content": "x"}], "temperature": 0}
    with tiny.chat.completions.stream(
        **ask, model="tiny", response_format=Answer, max_tokens=900
    ) as chat:
        done = [event for event in chat if event.type == "content.done"]
    assert isinstance(done[0].parsed, Answer)
    with tiny.responses.stream(model="tiny", input="x", text_format=Answer, temperature=0) as turn:
        assert isinstance(turn.get_final_response().output_parsed, Answer)
    with (
        anthropic.Anthropic(base_url=tiny_url, api_key="k") as client,
        client.messages.stream(
            model="tiny",
            messages=ask["messages"],
            max_tokens=900,
            output_format=Answer,
        ) as stream,
    ):
        assert isinstance(stream.get_final_message().parsed_output, Answer)
