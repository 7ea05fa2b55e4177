"""Whatever a body holds, the answer is an answer or a refusal that says why; never a 500."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models.chat_template import CHATML
from evolute.models.tiny import tiny_tokenizer
from evolute.models.tokenizer import ChatTokenizer
from evolute.server import create_app
from evolute.testing import ScriptedBackend

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": False}
CHAT = {
    "model": "base",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "max_tokens": 5,
    "stop": ["z"],
    "logit_bias": {"3": 1.0},
    "logprobs": True,
    "top_logprobs": 2,
    "stream_options": {"include_usage": True},
    "stream": True,
    "chat_template_kwargs": {},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
COMPLETION = {
    "model": "base",
    "prompt": [[1, 2], [3]],
    "max_tokens": 5,
    "echo": True,
    "logprobs": 2,
    "n": 2,
    "response_format": FORMAT,
    "stop": "z",
    "suffix": None,
    "best_of": 2,
}
RESPONSE = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "t", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "y"},
    ],
    "instructions": "i",
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "text"}},
    "metadata": {"a": "b"},
    "include": ["message.output_text.logprobs"],
    "max_output_tokens": 5,
    "stream": True,
}
MESSAGES = {
    "model": "base",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": [], "is_error": True},
                {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["z"],
    "output_config": {"format": None},
    "stream": True,
}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": {
        key: MESSAGES[key] for key in ("messages", "system", "tools", "tool_choice")
    },
}
odd: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, -1, 1 << 70, 1e308, -0.5, "", "f", "c", "\u0000", "auto"])
    | st.sampled_from(["function", "text", "tool_use", "user", "assistant", "\ud7ff\uffff"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "name", "a", "text"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within a body."""
    if path:
        yield path
    inner: Any = enumerate(value) if isinstance(value, list) else ()
    for key, child in value.items() if isinstance(value, dict) else inner:
        yield from places(child, (*path, key))


@st.composite
def asks(draw: st.DrawFn) -> tuple[str, Any]:
    """A body that is right but for one or two places, of which some are taken out."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body: Any = copy.deepcopy(BODIES[path])
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(sorted(places(body), key=repr)))
        holder = body
        for key in way:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            del holder[last]
        else:
            holder[last] = draw(odd)
    return path, body


@pytest.fixture(scope="module")
def app() -> FastAPI:
    tokenizer = ChatTokenizer(tiny_tokenizer().tokenizers, eos_token_id=258, template=CHATML)
    return create_app(ScriptedBackend([f"a {CALL}"], tokenizer=tokenizer), served_names=["base"])


def post(app: FastAPI, path: str, body: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Content-Type": "application/json"}
            return await client.post(path, content=json.dumps(body), headers=headers)

    return asyncio.run(run())


def test_the_bodies_that_are_changed_are_right(app: FastAPI) -> None:
    for path, body in BODIES.items():
        answer = post(app, path, body)
        assert answer.status_code == 200, (path, answer.text)


@settings(max_examples=300, deadline=None)
@given(asks())
def test_no_body_breaks_the_server(app: FastAPI, ask: tuple[str, Any]) -> None:
    path, body = ask
    answer = post(app, path, body)
    assert answer.status_code in (200, 400, 404), (path, body, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and error["type"] in ("invalid_request_error", "not_found_error")
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert "internal error" not in answer.text, (path, body)
