"""/v1/messages through the official client: blocks, events, errors in their own shape."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import anthropic
import httpx
import pydantic
import pytest

from evolute.models.chat_template import CHATML
from evolute.models.tiny import tiny_tokenizer
from evolute.models.tokenizer import ChatTokenizer
from evolute.server import RunningServer
from evolute.testing import ScriptedBackend, until
from evolute.types import EvoluteError, GenerateRequest, OutOfCapacity

Start = Callable[..., tuple[ScriptedBackend, anthropic.Anthropic]]
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call>'
ASK: dict[str, Any] = {
    "model": "base",
    "max_tokens": 400,
    "messages": [{"role": "user", "content": "weather?"}],
}


def client_of(url: str, **settings: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, **settings)


@pytest.fixture
def start(serve: Callable[..., RunningServer]) -> Iterator[Start]:
    with contextlib.ExitStack() as clients:

        def begin(script: Any = ("ok",), backend: Any = None, **settings: Any) -> Any:
            words = tiny_tokenizer().tokenizers
            tokenizer = ChatTokenizer(words, eos_token_id=258, template=CHATML)
            backend = backend or ScriptedBackend(script, tokenizer=tokenizer)
            client = client_of(serve(backend, **settings).url)
            return backend, clients.enter_context(client)

        yield begin


@pytest.fixture
def tiny(tiny_url: str) -> Iterator[anthropic.Anthropic]:
    with client_of(tiny_url) as client:
        yield client


def prompt_of(backend: ScriptedBackend, number: int = -1) -> str:
    return backend.tokenizer.decode(backend.requests[number].prompt, skip_special_tokens=False)


def test_a_message_is_answered(start: Start) -> None:
    backend, client = start(["hello"])
    answer = client.messages.create(
        **ASK,
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": "ann"},
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},
    )
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "hello"}]
    assert (answer.role, answer.type, answer.model) == ("assistant", "message", "base")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    request = backend.requests[0]
    assert answer.usage.input_tokens == len(request.prompt)
    assert answer.usage.output_tokens == 6
    turns = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nweather?<|im_end|>\n"
    assert prompt_of(backend) == turns + "<|im_start|>assistant\n"
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert (sampling.max_new_tokens, request.tenant) == (400, "ann")


def test_why_it_stopped(start: Start) -> None:
    _, client = start(["one two three"])
    stopped = client.messages.create(**ASK, stop_sequences=["two", "zzz"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "two")
    assert stopped.content[0].to_dict()["text"] == "one "
    cut = client.messages.create(**{**ASK, "max_tokens": 3})
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)


def test_the_events_and_their_order(start: Start) -> None:
    _, client = start([f"so {CALL}\n{CALL} then"])
    with httpx.stream(
        "POST", f"{client.base_url}/v1/messages", json={**ASK, "tools": [TOOL], "stream": True}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in events]
    merged = [name for name, last in zip(names, ["", *names]) if name != last]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert merged == ["message_start", "ping", *block * 4, "message_delta", "message_stop"]
    starts = [e for e in events if e["type"] == "content_block_start"]
    assert [e["index"] for e in starts] == [0, 1, 2, 3]
    assert [e["content_block"]["type"] for e in starts] == ["text", "tool_use", "tool_use", "text"]
    assert starts[1]["content_block"]["input"] == {}
    assert events[0]["message"]["stop_reason"] is None
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] > 100


def test_the_clients_own_accumulation_is_the_whole_message(start: Start) -> None:
    _, client = start([f"so {CALL}"])
    with client.messages.stream(**ASK, tools=[TOOL]) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    whole = client.messages.create(**ASK, tools=[TOOL])
    assert text == "so"
    assert (streamed.stop_reason, whole.stop_reason) == ("tool_use", "tool_use")
    for message in (streamed, whole):
        words, call = message.content
        assert words.to_dict()["text"] == "so"
        assert call.type == "tool_use" and call.name == "weather"
        assert call.input == {"city": "Ulm"} and call.id.startswith("toolu_")
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.input_tokens == whole.usage.input_tokens


def test_results_go_back_to_the_model(start: Start) -> None:
    backend, client = start(["it rains"])
    used: Any = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}}
    results: Any = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": "t1", "content": "gone", "is_error": True},
        {"type": "text", "text": "so "},
        {"type": "text", "text": "what?"},
    ]
    text: Any = {"type": "text", "text": "I look."}
    turns: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": [text, used]},
        {"role": "user", "content": results},
    ]
    client.messages.create(**{**ASK, "messages": turns})
    assert prompt_of(backend).split("<|im_start|>")[1:] == [
        "user\nweather?<|im_end|>\n",
        "assistant\nI look.\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call><|im_end|>\n',
        "user\n<tool_response>\nrain\n</tool_response><|im_end|>\n",
        "user\n<tool_response>\nError: gone\n</tool_response><|im_end|>\n",
        "user\nso what?<|im_end|>\n",
        "assistant\n",
    ]


def test_a_last_message_of_the_assistant_is_continued(start: Start) -> None:
    backend, client = start(["rains"])
    turns: Any = [*ASK["messages"], {"role": "assistant", "content": "it "}]
    answer = client.messages.create(**{**ASK, "messages": turns})
    assert prompt_of(backend).endswith("<|im_start|>assistant\nit ")
    assert answer.content[0].to_dict()["text"] == "rains"


def test_counted_tokens_are_those_of_the_message(start: Start) -> None:
    backend, client = start(["ok"])
    said: dict[str, Any] = {"model": "base", "messages": ASK["messages"], "tools": [TOOL]}
    counted = client.messages.count_tokens(**said, system="be brief")
    assert backend.requests == []
    answer = client.messages.create(**said, system="be brief", max_tokens=5)
    assert counted.input_tokens == answer.usage.input_tokens == len(backend.requests[0].prompt)


def test_choices_of_tools(start: Start) -> None:
    backend, client = start([f"{CALL}{CALL}"])
    auto: Any = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(client.messages.create(**ASK, tools=[TOOL], tool_choice=auto).content) == 1
    none = client.messages.create(**ASK, tools=[TOOL], tool_choice={"type": "none"})
    assert none.content[0].to_dict()["text"] == CALL + CALL
    assert "weather" not in prompt_of(backend).replace("weather?", "")


def test_models_are_listed(start: Start) -> None:
    _, client = start(backend=ScriptedBackend(adapters=["ann"]))
    assert [model.id for model in client.models.list()] == ["base", "ann", "base:ann"]
    one = client.models.retrieve("ann")
    assert (one.id, one.type, one.display_name) == ("ann", "model", "ann")
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nope")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
def test_a_client_that_leaves_aborts_its_request(start: Start, path: str, stream: bool) -> None:
    backend = ScriptedBackend(["x" * 4000], delay_s=0.02)
    _, client = start(backend=backend)
    limit = "max_output_tokens" if path.endswith("responses") else "max_tokens"
    body: dict[str, Any] = {"messages": ASK["messages"], limit: 4000, "stream": stream}
    if path.endswith("responses"):
        body["input"] = body.pop("messages")
    with contextlib.suppress(httpx.ReadTimeout):
        if stream:
            with httpx.stream("POST", f"{client.base_url}{path}", json=body) as answer:
                assert answer.status_code == 200
                next(answer.iter_lines())
        else:
            httpx.post(f"{client.base_url}{path}", json=body, timeout=0.5)
    until(lambda: backend.cancelled)
    assert backend.stats()["running"] == 0


# -- on a real engine ------------------------------------------------------------------


class Answer(pydantic.BaseModel):
    yes: bool
    kind: Literal[1, 2]


SCHEMA = {**Answer.model_json_schema(), "additionalProperties": False}


@pytest.mark.parametrize(
    "choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "f"}]
)
def test_a_forced_call_keeps_to_its_schema(tiny: anthropic.Anthropic, choice: Any) -> None:
    async def run() -> anthropic.types.Message:
        url = str(tiny.base_url)
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client,
            client.messages.stream(
                **{**ASK, "model": "tiny", "max_tokens": 1500},
                tools=[{"name": "f", "input_schema": SCHEMA}],
                tool_choice=choice,
            ) as stream,
        ):
            return await stream.get_final_message()

    message = asyncio.run(run())
    assert message.stop_reason == "tool_use"
    (block,) = message.content
    assert block.type == "tool_use" and block.name == "f"
    Answer.model_validate(block.input)


def test_a_parsed_answer(tiny: anthropic.Anthropic) -> None:
    answer = tiny.messages.parse(
        **{**ASK, "model": "tiny", "max_tokens": 900},
        output_format=Answer,
        extra_body={"temperature": 0},
    )
    assert isinstance(answer.parsed_output, Answer)


# -- errors ----------------------------------------------------------------------------


def test_errors_are_the_clients_own(start: Start) -> None:
    _, client = start([OutOfCapacity("the queue is full"), ValueError("secret")])
    with pytest.raises(anthropic.InternalServerError, match="queue is full") as full:
        client.messages.create(**ASK)
    assert full.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "the queue is full"},
    }
    with pytest.raises(anthropic.InternalServerError) as unforeseen:
        client.messages.create(**ASK)
    assert "secret" not in str(unforeseen.value) and "api_error" in str(unforeseen.value)
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.messages.create(**{**ASK, "model": "nope"})
    with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
        client.messages.create(**{**ASK, "messages": []})


def test_a_missing_key_is_an_error_in_the_same_shape(start: Start) -> None:
    _, client = start(api_keys=["other"])
    with pytest.raises(anthropic.AuthenticationError):
        client.messages.create(**ASK)
    assert client.with_options(api_key="other").messages.create(**ASK).stop_reason == "end_turn"
    answer = httpx.post(f"{client.base_url}/v1/messages", json=ASK)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["type"] == "error"


def test_an_error_inside_a_stream_is_raised_by_the_client(start: Start) -> None:
    class Breaks(ScriptedBackend):
        async def stream(self, request: GenerateRequest) -> Any:
            async for delta in super().stream(request):
                yield delta
                raise EvoluteError("the engine broke")

    _, client = start(backend=Breaks())
    with pytest.raises(anthropic.APIStatusError, match="the engine broke"):
        list(client.messages.create(**ASK, stream=True))


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{**TOOL, **fields}]}


USED = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"max_tokens": None}, 400, "max_tokens"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0] must have a role"),
    ({"messages": [{"role": "user", "content": []}]}, 400, "not empty"),
    ({"messages": [{"role": "assistant", "content": [USED]}]}, 400, "send their results"),
    (block(type="image", source={}), 501, "messages[0].content[0]"),
    (block(type="text", text=3), 400, "messages[0].content[0].text"),
    (block(type="text", text="x", citations=[1]), 400, "citations"),
    (block(type="text", text="x", cache_control={"type": "forever"}), 400, "cache_control"),
    (block(type="tool_result", tool_use_id="t"), 400, "no earlier block"),
    ({"system": 3}, 400, "system must be a text"),
    ({"system": [{"type": "image"}]}, 501, "system[0]"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, 400, "thinking"),
    ({"service_tier": "priority"}, 400, "service_tier"),
    ({"mcp_servers": [{}]}, 400, "mcp_servers"),
    ({"output_config": {"effort": "high"}}, 400, "effort"),
    ({"stop": ["x"]}, 400, "unknown field 'stop'"),
    ({"stop_sequences": [""]}, 400, "stop"),
    (tool(type="web_search_20250305"), 400, "web_search"),
    (tool(name="a b"), 400, "tools[0].name"),
    (tool(input_schema={"type": "string"}), 400, "tools[0].input_schema"),
    (tool(defer_loading=True), 400, "defer_loading"),
    ({"tool_choice": {"type": "any"}}, 400, "needs tools"),
    ({"tool_choice": {"type": "some"}}, 400, "tool_choice must be"),
    ({**tool(), "tool_choice": {"type": "tool", "name": "g"}}, 400, "'g'"),
]


def test_what_cannot_be_honoured_is_refused_by_name(start: Start) -> None:
    backend, client = start()
    for body, status, text in REFUSED:
        answer = httpx.post(f"{client.base_url}/v1/messages", json={**ASK, **body})
        assert answer.status_code == status, (body, answer.text)
        assert text in answer.json()["error"]["message"], (body, answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert backend.requests == []
