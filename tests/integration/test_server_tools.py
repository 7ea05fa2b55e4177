"""Tools over HTTP: what the model is told, what is read from its answer, what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from tokenizers import AddedToken

from evolute.engine import Engine
from evolute.lang.tools import ToolFormat
from evolute.models.chat_template import CHATML
from evolute.models.tiny import tiny_tokenizer
from evolute.models.tokenizer import ChatTokenizer
from evolute.server import RunningServer, create_app, serve_in_thread
from evolute.testing import ScriptedBackend

Start = Callable[..., tuple[ScriptedBackend, openai.OpenAI]]
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "at": {"$ref": "#/$defs/When"}},
    "required": ["city", "at"],
    "additionalProperties": False,
    "$defs": {"When": {"enum": ["now", "later"]}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "the time"}}
ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "weather?"}]}
CALL = '{"name": "weather", "arguments": {"city": "Ulm", "at": "now"}}'
TOOL_TEMPLATE = (
    "{% if tools %}TOOLS{% for tool in tools %} {{ tool.function.name }}{% endfor %}. {% endif %}"
    "{% if shout %}LOUD. {% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    " | {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def start(serve: Callable[..., RunningServer]) -> Iterator[Start]:
    """Clients of servers on scripted backends."""
    with contextlib.ExitStack() as clients:

        def begin(
            script: Any, template: str = CHATML, tokenizer: Any = None, **settings: Any
        ) -> tuple[ScriptedBackend, openai.OpenAI]:
            tokenizer = tokenizer or ChatTokenizer(
                tiny_tokenizer().tokenizers, eos_token_id=258, template=template
            )
            backend = ScriptedBackend(script, tokenizer=tokenizer)
            url = f"{serve(backend, **settings).url}/v1"
            client = openai.OpenAI(base_url=url, api_key="k", max_retries=0)
            return backend, clients.enter_context(client)

        yield begin


def streamed(chunks: Any) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Text, calls and finish reasons of a stream, put together as a client does."""
    text, calls, reasons = "", [], []
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                if call.id:
                    assert call.index == len(calls)
                    assert call.type == "function"
                    calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
                else:
                    assert call.function.name is None
                calls[call.index]["arguments"] += call.function.arguments
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return text, calls, reasons


# -- what is read ----------------------------------------------------------------


def test_the_model_calls_when_it_likes(start: Start) -> None:
    answer = f"I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"
    _, client = start([answer])
    whole = client.chat.completions.create(**ASK, tools=[WEATHER, CLOCK], max_tokens=400)
    choice = whole.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    calls: Any = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Ulm", "at": "now"}
    assert all(len(call.id) == 29 and call.id.startswith("call_") for call in calls)
    assert calls[0].id != calls[1].id
    text, parts, reasons = streamed(
        client.chat.completions.create(**ASK, tools=[WEATHER], max_tokens=400, stream=True)
    )
    assert (text, reasons) == ("I look.", ["tool_calls"])
    assert [p["arguments"] for p in parts] == [call.function.arguments for call in calls]


def test_arguments_are_streamed_piece_by_piece(start: Start) -> None:
    _, client = start([f"<tool_call>{CALL}</tool_call>"])
    stream = client.chat.completions.create(**ASK, tools=[WEATHER], max_tokens=400, stream=True)
    pieces = [c for chunk in stream for c in chunk.choices[0].delta.tool_calls or []]
    assert len(pieces) > 20
    assert pieces[0].function is not None and pieces[0].function.arguments == ""


def test_one_call_at_most_without_parallel_calls(start: Start) -> None:
    _, client = start([f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"])
    answer = client.chat.completions.create(
        **ASK, tools=[WEATHER], parallel_tool_calls=False, max_tokens=400
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


def test_a_call_that_is_cut_off_ends_by_length(start: Start) -> None:
    _, client = start([f"<tool_call>{CALL}</tool_call>"])
    call: dict[str, Any] = {**ASK, "tools": [WEATHER], "max_tokens": 50}
    choice = client.chat.completions.create(**call).choices[0]
    text, parts, reasons = streamed(client.chat.completions.create(**call, stream=True))
    assert choice.finish_reason == "length" and reasons == ["length"]
    found: Any = choice.message.tool_calls
    assert [p["arguments"] for p in parts] == [found[0].function.arguments] == ['{"city']
    assert text == ""


def test_a_stop_string_within_a_call_is_a_stop(start: Start) -> None:
    _, client = start([f"<tool_call>{CALL}</tool_call>"])
    call: dict[str, Any] = {**ASK, "tools": [WEATHER], "max_tokens": 400}
    for stop, reason in ((", ", "stop"), ("at", "stop"), ("</tool", "tool_calls")):
        whole = client.chat.completions.create(**call, stop=stop).choices[0]
        _, _, reasons = streamed(client.chat.completions.create(**call, stop=stop, stream=True))
        assert [whole.finish_reason] == reasons == [reason], stop


def test_without_tools_a_call_is_text(start: Start) -> None:
    _, client = start([f"<tool_call>{CALL}</tool_call>"])
    for more in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        choice = client.chat.completions.create(**ASK, **more, max_tokens=400).choices[0]  # type: ignore[call-overload]
        assert choice.message.content == f"<tool_call>{CALL}</tool_call>"
        assert choice.finish_reason == "stop"


def test_bare_json_is_a_setting(start: Start) -> None:
    _, client = start([f"[{CALL}]"], tool_format=ToolFormat.JSON)
    choice = client.chat.completions.create(**ASK, tools=[WEATHER], max_tokens=400).choices[0]
    assert [c.function.name for c in choice.message.tool_calls or []] == ["weather"]  # type: ignore[union-attr]
    assert choice.message.content is None


def test_logprobs_cover_the_tokens_of_calls(start: Start) -> None:
    answer = f"<tool_call>{CALL}</tool_call>"
    _, client = start([answer])
    stream = client.chat.completions.create(
        **ASK, tools=[WEATHER], max_tokens=400, stream=True, logprobs=True
    )
    told = [t.token for c in stream if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert "".join(told) == answer + "<|im_end|>"


# -- what the model is told --------------------------------------------------------


HISTORY = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Ulm"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


def test_a_template_that_reads_tools_gets_them(start: Start) -> None:
    backend, client = start(["ok"], TOOL_TEMPLATE)
    client.chat.completions.create(
        model="base",
        messages=HISTORY,
        tools=[WEATHER, CLOCK],
        extra_body={"chat_template_kwargs": {"shout": True}},
    )
    assert backend.tokenizer.decode(backend.requests[0].prompt) == (
        "TOOLS weather clock. LOUD. user:weather? | "
        'assistant:<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call> | '
        "tool:rain | assistant:"
    )


def test_any_other_template_is_told_in_words(start: Start) -> None:
    backend, client = start(["ok"])
    system = {"role": "system", "content": "be brief"}
    client.chat.completions.create(model="base", messages=[system, *HISTORY], tools=[CLOCK])
    prompt = backend.tokenizer.decode(backend.requests[0].prompt, skip_special_tokens=False)
    turns = prompt.split("<|im_start|>")
    assert turns[1].startswith("system\nbe brief\n\nYou may call functions.")
    assert '"name": "clock", "description": "the time"' in turns[1]
    assert turns[2] == "user\nweather?<|im_end|>\n"
    call = '{"name": "weather", "arguments": {"city": "Ulm"}}'
    assert turns[3] == f"assistant\n<tool_call>\n{call}\n</tool_call><|im_end|>\n"
    assert turns[4] == "user\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
    assert turns[5] == "assistant\n"


def test_tools_that_may_not_be_called_are_not_told(start: Start) -> None:
    backend, client = start(["ok"], TOOL_TEMPLATE)
    client.chat.completions.create(**ASK, tools=[CLOCK], tool_choice="none")
    assert "clock" not in backend.tokenizer.decode(backend.requests[0].prompt)


# -- calls that must be, on a real engine --------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_call_keeps_to_its_schema(tiny: openai.OpenAI, stream: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    call: dict[str, Any] = {**ASK, "tools": [WEATHER, CLOCK], "tool_choice": choice, "seed": 3}
    if stream:
        answer = tiny.chat.completions.create(**call, stream=True, max_tokens=600)
        text, calls, reasons = streamed(answer)
    else:
        one = tiny.chat.completions.create(**call, max_tokens=600).choices[0]
        text, reasons = one.message.content or "", [one.finish_reason]
        found: Any = one.message.tool_calls
        calls = [{"name": c.function.name, "arguments": c.function.arguments} for c in found]
    assert (text, reasons) == ("", ["tool_calls"])
    assert [c["name"] for c in calls] == ["weather"]
    assert json.loads(calls[0]["arguments"])["at"] in ("now", "later")


@pytest.mark.parametrize("parallel", [False, True])
def test_a_required_call_is_one_of_the_tools(tiny: openai.OpenAI, parallel: bool) -> None:
    for seed in range(3):
        choice = tiny.chat.completions.create(
            **ASK,
            tools=[WEATHER, CLOCK],
            tool_choice="required",
            parallel_tool_calls=parallel,
            max_tokens=2000,
            seed=seed,
        ).choices[0]
        calls: Any = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert calls and (parallel or len(calls) == 1)
        for call in calls:
            arguments = json.loads(call.function.arguments)
            assert call.function.name in ("weather", "clock")
            if call.function.name == "weather":
                assert arguments["at"] in ("now", "later") and len(arguments["city"]) <= 8


def test_a_format_leaves_the_choice_between_an_answer_and_a_call(tiny: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    for bias, reason in (({"60": -100}, "stop"), ({"123": -100}, "tool_calls")):  # '<', '{'
        choice = tiny.chat.completions.create(
            **ASK,
            tools=[{**WEATHER, "function": {**WEATHER["function"], "strict": True}}],  # type: ignore[dict-item]
            response_format=form,
            parallel_tool_calls=False,
            max_tokens=600,
            logit_bias=bias,
            temperature=0,
        ).choices[0]
        assert choice.finish_reason == reason
        if reason == "stop":
            assert json.loads(choice.message.content or "")["at"] in ("now", "later")
        else:
            assert choice.message.content is None


def test_tags_that_are_control_tokens_are_read(start: Start) -> None:
    tokenizer = tiny_tokenizer().tokenizers
    tags = [AddedToken("<tool_call>", special=True), AddedToken("</tool_call>", special=True)]
    tokenizer.add_special_tokens(tags)
    special = ChatTokenizer(tokenizer, eos_token_id=258, template=CHATML)
    backend, client = start([f"<tool_call>{CALL}</tool_call>"], tokenizer=special)
    choice = client.chat.completions.create(**ASK, tools=[WEATHER], max_tokens=400).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert not backend.requests[0].sampling.skip_special_tokens
    client.chat.completions.create(**ASK, max_tokens=400)
    assert backend.requests[1].sampling.skip_special_tokens


def test_the_embedded_model_fills_in_the_arguments() -> None:
    place = {**PLACE, "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}}
    place["required"] = ["city", "unit"]
    function = {"name": "weather", "description": "Weather in a city", "parameters": place}
    with Engine("smollm2-135m") as engine:
        server = serve_in_thread(create_app(engine, served_names=["smollm2"]))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": "What is the weather in Paris in Celsius?"}],
                tools=[{"type": "function", "function": function}, CLOCK],
                tool_choice="required",
                parallel_tool_calls=False,
                temperature=0,
                max_tokens=120,
            )
        server.stop()
    (call,) = answer.choices[0].message.tool_calls  # type: ignore[misc]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris", "unit": "C"}


# -- refusals ------------------------------------------------------------------------


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def named(name: str) -> dict[str, Any]:
    return {"tool_choice": {"type": "function", "function": {"name": name}}}


def after_call(**call: Any) -> dict[str, Any]:
    whole = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, **call}
    return {"messages": [{"role": "assistant", "tool_calls": [whole]}]}


JSON_OBJECT = {"response_format": {"type": "json_object"}}
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"tool_choice": "required"}, 400, "tool_choice", "needs tools"),
    (named("f"), 400, "tool_choice", "needs tools"),
    ({**tool(), **named("g")}, 400, "tool_choice", "Known: f"),
    ({**tool(), "tool_choice": "maybe"}, 400, "tool_choice", "none, auto, required"),
    ({**tool(), "tool_choice": {"type": "custom"}}, 400, "tool_choice", "custom"),
    ({"tools": [{}]}, 400, "tools[0]", "function"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0]", "web_search"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].function", "name"),
    (tool(name="a b"), 400, "tools[0].function.name", "1 to 64"),
    (tool(color=1), 400, "tools[0].function.color", "not known"),
    (tool(parameters={"type": "text"}), 400, "tools[0].function.parameters", "object"),
    (tool(parameters=[]), 400, "tools[0].function.parameters", "object"),
    (
        tool(parameters={"properties": {"a": {"type": "int"}}}),
        400,
        "tools[0].function.parameters",
        "types are",
    ),
    (tool(parameters={"required": "a"}), 400, "tools[0].function.parameters", "list of names"),
    ({"tools": tool()["tools"] * 2}, 400, "tools[1].function.name", "twice"),
    ({**tool(), "tool_choice": "required", **JSON_OBJECT}, 400, "response_format", "demands"),
    ({**tool(), "regex": "a"}, 400, "regex", "excludes tools"),
    ({**tool(), "tool_choice": "required", "regex": "a"}, 400, "regex", "excludes tools"),
    ({"chat_template_kwargs": {"x": 1}}, 400, "chat_template_kwargs", "none at all"),
    ({"chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs", "'messages'"),
    (after_call(id=3), 400, "messages[0].tool_calls[0]", "id"),
    (after_call(type="custom"), 400, "messages[0].tool_calls[0]", "custom"),
    (
        after_call(function={"name": "f", "arguments": "[]"}),
        400,
        "messages[0].tool_calls[0].function.arguments",
        "JSON object",
    ),
    (
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
        400,
        "messages[0].tool_call_id",
        "no earlier message",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]},
        400,
        "messages[0].tool_calls",
        "user",
    ),
]


def test_tools_that_cannot_be_are_refused_by_name(start: Start) -> None:
    backend, client = start(["ok"])
    for body, status, param, text in REFUSED:
        answer = httpx.post(f"{client.base_url}chat/completions", json={**ASK, **body})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), (body, error)
        assert text in error["message"], (body, error)
    assert backend.requests == []


def test_a_schema_that_no_grammar_can_keep_is_400(tiny: openai.OpenAI) -> None:
    odd = tool(parameters={"type": "object", "not": {"required": ["a"]}})["tools"]
    with pytest.raises(openai.BadRequestError, match="Unimplemented"):
        tiny.chat.completions.create(**ASK, tools=odd, tool_choice="required")
    tiny.chat.completions.create(**ASK, tools=odd, max_tokens=3)
