"""/v1/responses through the official client: items, events, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest

from evolute.server import RunningServer
from evolute.server.errors import FieldError
from evolute.server.openai.responses.store import ResponseStore
from evolute.testing import ManualClock, ScriptedBackend
from evolute.types import EvoluteError, GenerateRequest, PromptTooLong

Start = Callable[..., tuple[ScriptedBackend, openai.OpenAI]]
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": None,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call>'


@pytest.fixture
def start(serve: Callable[..., RunningServer]) -> Iterator[Start]:
    with contextlib.ExitStack() as clients:

        def begin(script: Any = ("ok",), backend: Any = None, **settings: Any) -> Any:
            backend = backend or ScriptedBackend(script)
            url = f"{serve(backend, **settings).url}/v1"
            client = openai.OpenAI(base_url=url, api_key="k", max_retries=0)
            return backend, clients.enter_context(client)

        yield begin


def test_a_text_is_answered(start: Start) -> None:
    backend, client = start(["hello"])
    answer = client.responses.create(
        model="base", input="hi", instructions="be brief", user="ann", metadata={"a": "b"}
    )
    assert answer.output_text == "hello"
    assert (answer.status, answer.object, answer.model) == ("completed", "response", "base")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6
    assert answer.usage.total_tokens == answer.usage.input_tokens + 6
    request = backend.requests[0]
    prompt = backend.tokenizer.decode(request.prompt)
    assert prompt == "system\nbe brief" + "user\nhi" + "assistant\n"
    assert request.tenant == "ann"


def test_the_events_and_their_order(start: Start) -> None:
    _, client = start([f"so {CALL}\nthen"])
    events: list[Any] = list(
        client.responses.create(
            model="base", input="x", tools=[TOOL], max_output_tokens=400, stream=True
        )
    )
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    merged = [kind for kind, last in zip(kinds, ["", *kinds]) if kind != last]
    text = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done"]
    text += ["content_part.done", "output_item.done"]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    order = ["created", "in_progress", *text, *call, "output_item.done", *text, "completed"]
    assert merged == [f"response.{kind}" for kind in order]
    final = events[-1].response
    assert [item.type for item in final.output] == ["message", "function_call", "message"]
    for index, item in enumerate(final.output):
        mine = [e for e in events if getattr(e, "output_index", None) == index]
        deltas = "".join(e.delta for e in mine if e.type.endswith(".delta"))
        whole = item.content[0].text if item.type == "message" else item.arguments
        assert deltas == whole
        assert {e.item_id for e in mine if hasattr(e, "item_id")} == {item.id}
        assert mine[-1].item.status == "completed"
    assert final.output[1].name == "weather"
    assert final.usage.output_tokens > 0


def test_the_clients_own_accumulation_agrees(start: Start) -> None:
    _, client = start([f"so {CALL}"])
    with client.responses.stream(model="base", input="x", tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final: Any = stream.get_final_response()
    assert final.output_text == "so"
    assert json.loads(final.output[1].arguments) == {"city": "Ulm"}


def test_whole_and_streamed_are_one_answer(start: Start) -> None:
    _, client = start([f"a {CALL} b"])
    call: dict[str, Any] = {"model": "base", "input": "x", "tools": [TOOL]}
    whole = client.responses.create(**call).model_dump()
    last: Any = list(client.responses.create(**call, stream=True))[-1]
    streamed = last.response.model_dump()

    def plain(response: dict[str, Any]) -> dict[str, Any]:
        left_out = ("id", "call_id", "created_at", "completed_at")
        items = [{k: v for k, v in i.items() if k not in left_out} for i in response["output"]]
        return {k: v for k, v in response.items() if k not in left_out} | {"output": items}

    assert plain(whole) == plain(streamed)


def test_usage_in_streams_may_be_asked_for_as_in_chats(start: Start) -> None:
    """Load generators do. It is always there, so nobody can ask to be without."""
    _, client = start(["so", "so"])
    call: dict[str, Any] = {"model": "base", "input": "x", "stream": True}
    wanted: Any = {"stream_options": {"include_usage": True}}
    last: Any = list(client.responses.create(**call, extra_body=wanted))[-1]
    assert last.response.usage.output_tokens > 0
    wanted["stream_options"]["include_usage"] = False
    with pytest.raises(openai.BadRequestError, match="stream_options"):
        client.responses.create(**call, extra_body=wanted)


def test_what_is_too_long_is_incomplete(start: Start) -> None:
    _, client = start(["a long answer"])
    call: dict[str, Any] = {"model": "base", "input": "x", "max_output_tokens": 4}
    answer = client.responses.create(**call)
    assert (answer.status, answer.output_text) == ("incomplete", "a lo")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    last: Any = list(client.responses.create(**call, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output[0].status == "incomplete"


def test_logprobs_are_told_when_included(start: Start) -> None:
    _, client = start(["h\u00e9"])
    call: dict[str, Any] = {
        "model": "base",
        "input": "x",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    answer: Any = client.responses.create(**call)
    told = answer.output[0].content[0].logprobs
    assert [t.bytes for t in told] == [[104], [0xC3], [0xA9]]
    assert len(told[0].top_logprobs) == 2
    events: list[Any] = list(client.responses.create(**call, stream=True))
    deltas = [e for e in events if e.type == "response.output_text.delta"]
    assert [len(e.logprobs) for e in deltas] == [1, 2]


# -- conversations -------------------------------------------------------------------


def test_a_response_builds_on_an_earlier_one(start: Start) -> None:
    backend, client = start([CALL, "rain then"])
    first: Any = client.responses.create(
        model="base", input="weather?", instructions="be brief", tools=[TOOL]
    )
    call = first.output[0]
    assert call.type == "function_call"
    second = client.responses.create(
        model="base",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
    )
    assert second.output_text == "rain then"
    prompt = backend.tokenizer.decode(backend.requests[1].prompt, skip_special_tokens=False)
    turns = prompt.split("<turn>")[1:]
    assert turns == [
        "user\nweather?<end>",
        f"assistant\n{CALL}".replace("<tool_call>", "<tool_call>\n").replace("}}<", "}}\n<")
        + "<end>",
        "user\n<tool_response>\nrain\n</tool_response><end>",
        "assistant\n",
    ]


def test_items_sent_back_are_the_same_conversation(start: Start) -> None:
    backend, client = start([f"so {CALL}", "ok"])
    first: Any = client.responses.create(model="base", input="weather?", tools=[TOOL])
    answered = [item.model_dump(exclude_none=True) for item in first.output]
    output = {"type": "function_call_output", "call_id": answered[1]["call_id"], "output": "rain"}
    client.responses.create(model="base", input=[output], previous_response_id=first.id)
    question = {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]}
    client.responses.create(model="base", input=[question, *answered, output])
    assert backend.requests[1].prompt == backend.requests[2].prompt


def test_kept_responses_can_be_asked_for_and_deleted(start: Start) -> None:
    _, client = start(["hello"])
    made = client.responses.create(model="base", input="x")
    assert client.responses.retrieve(made.id) == made
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    other = client.with_options(api_key="someone else")
    with pytest.raises(openai.NotFoundError):
        other.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        other.responses.create(model="base", input="x", previous_response_id=made.id)
    client.responses.delete(made.id)
    for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="is not here"):
            ask(made.id)
    passing = client.responses.create(model="base", input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(passing.id)


def test_the_store_forgets_the_old_and_the_many() -> None:
    clock = ManualClock()
    store = ResponseStore(max_age_s=10, max_responses=2, max_chars=1000, clock=clock)
    for id in ("a", "b", "c"):
        store.put("me", id, {"id": id}, [])
        clock.advance(1)
    assert len(store) == 2
    with pytest.raises(FieldError, match="'a' is not here"):
        store.get("me", "a")
    clock.advance(8.5)
    assert store.get("me", "c").response == {"id": "c"}
    with pytest.raises(FieldError):
        store.get("me", "b")
    store.put("me", "long", {"text": "x" * 985}, [])
    assert len(store) == 1
    store.put("me", "longer", {"text": "x" * 2000}, [])
    assert len(store) == 0
    store.put("me", "d", {}, [])
    store.delete("me", "d")
    assert len(store) == 0


def test_one_owner_s_responses_do_not_push_out_another_s() -> None:
    store = ResponseStore(max_responses=3, max_chars=500, all_responses=8, all_chars=900)
    store.put("quiet", "q", {}, [])
    for number in range(20):
        store.put("busy", f"b{number}", {"text": "x" * 100}, [])
    assert store.get("quiet", "q").response == {} and len(store) == 4
    for name in ("c", "d", "e"):
        store.put(name, "big", {"text": "x" * 300}, [])
    assert store.get("quiet", "q").response == {}, "who has most loses it"
    with pytest.raises(FieldError):
        store.get("c", "big")


# -- failures ------------------------------------------------------------------------


def test_parts_of_kept_responses_are_refused_by_name(start: Start) -> None:
    _, client = start()
    made = client.responses.create(model="base", input="x")
    with pytest.raises(openai.InternalServerError, match="input_items"):
        client.responses.input_items.list(made.id)


def test_a_failure_before_the_first_token_is_an_http_error(start: Start) -> None:
    _, client = start([PromptTooLong("too long; shorten it")])
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="base", input="x", stream=True)
    assert caught.value.code == "context_length_exceeded"


def test_a_failure_inside_a_stream_is_a_failed_response(start: Start) -> None:
    class Breaks(ScriptedBackend):
        async def stream(self, request: GenerateRequest) -> Any:
            async for delta in super().stream(request):
                yield delta
                raise EvoluteError("the engine broke")

    _, client = start(backend=Breaks())
    last: Any = list(client.responses.create(model="base", input="x", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error.message == "the engine broke"
    assert last.response.status == "failed"


ITEM = {"type": "function_call_output", "call_id": "c", "output": "x"}
PICTURE = {"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}
FORMED = {"text": {"format": {"type": "json_object"}}}
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"input": []}, 400, "input", "empty"),
    ({"input": 3}, 400, "input", "a text or a list of items"),
    ({"input": [ITEM]}, 400, "input[0].call_id", "no earlier item"),
    ({"input": [{"type": "reasoning"}]}, 400, "input[0]", "reasoning"),
    ({"input": [{"role": "tool", "content": "x"}]}, 400, "input[0].role", "user"),
    ({"input": [PICTURE]}, 501, "input[0].content", "input_image"),
    ({"inputs": "x"}, 400, "inputs", "'input'"),
    ({"background": True}, 400, "background", "background"),
    ({"truncation": "auto"}, 400, "truncation", "truncation"),
    ({"reasoning": {"effort": "high"}}, 400, "reasoning", "reasoning"),
    ({"conversation": "c"}, 400, "conversation", "conversation"),
    ({"include": ["file_search_call.results"]}, 400, "include", "file_search"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "include"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0]", "web_search"),
    ({"tools": [{"type": "function", "name": "a b"}]}, 400, "tools[0].name", "1 to 64"),
    ({"tool_choice": "required"}, 400, "tool_choice", "needs tools"),
    ({"previous_response_id": "resp_0"}, 404, "previous_response_id", "is not here"),
    ({"text": {"format": {"type": "json_schema"}}}, 400, "text.format", "schema"),
    ({**FORMED, "tools": [TOOL], "tool_choice": "required"}, 400, "text.format", "demands"),
    ({"text": {"verbosity": "high"}}, 400, "text", "medium"),
    ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata", "at most 16"),
    ({"max_output_tokens": 0}, 400, "max_output_tokens", "greater"),
    ({"model": "nope"}, 404, "model", "nope"),
]


def test_what_cannot_be_honoured_is_refused_by_name(start: Start) -> None:
    backend, client = start()
    for body, status, param, text in REFUSED:
        answer = httpx.post(f"{client.base_url}responses", json={"input": "x", **body})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), (body, error)
        assert text in error["message"], (body, error)
    assert backend.requests == []


# -- on a real engine ------------------------------------------------------------------


class Answer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    yes: bool
    kind: Literal[1, 2]


def test_a_parsed_answer(tiny: openai.OpenAI) -> None:
    answer = tiny.responses.parse(
        model="tiny", input="x", text_format=Answer, max_output_tokens=900, temperature=0
    )
    assert isinstance(answer.output_parsed, Answer)


def test_a_required_call_async(tiny: openai.OpenAI) -> None:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=str(tiny.base_url), api_key="k") as client:
            return await client.responses.create(
                model="tiny",
                input="x",
                tools=[{**TOOL, "parameters": Answer.model_json_schema()}],
                tool_choice={"type": "function", "name": "weather"},
                max_output_tokens=900,
            )

    (item,) = asyncio.run(run()).output
    assert item.type == "function_call" and item.name == "weather"
    Answer.model_validate_json(item.arguments)
