"""Whatever a model writes, what is streamed is what is answered whole, in all three APIs."""

from __future__ import annotations

import asyncio
import json
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

FUNCTION = {"name": "f", "parameters": {"type": "object"}}
ASK = [{"role": "user", "content": "x"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": ASK,
        "tools": [{"type": "function", "function": FUNCTION}],
    },
    "/v1/responses": {"input": "x", "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {"messages": ASK, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
}
LIMITS = {"/v1/responses": "max_output_tokens"}
TAGGED = '<tool_call>{"name": "f", "arguments": {"a": "ü}"}}</tool_call>'
answers = st.lists(
    st.text(alphabet="a ü🎉<\n", max_size=6)
    | st.sampled_from([TAGGED, TAGGED, TAGGED[:30], "<tool_call>", "</tool_call>", '{"a"'])
).map("".join)


@pytest.fixture(scope="module")
def served() -> tuple[dict[str, str], FastAPI]:
    """What the model will write, and the application."""
    writes: dict[str, str] = {}
    tokenizer = ChatTokenizer(tiny_tokenizer().tokenizers, eos_token_id=258, template=CHATML)
    backend = ScriptedBackend(lambda request: writes["answer"], tokenizer=tokenizer)
    return writes, create_app(backend, served_names=["base"])


def post(app: FastAPI, path: str, body: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    answer = asyncio.run(run())
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


Turn = tuple[list[tuple[str, str]], str]  # texts and calls in order, why it ended


def joined(pieces: list[tuple[Any, str, str]]) -> list[tuple[str, str]]:
    """(place, kind, text) of every piece, those of one place put together."""
    whole: dict[Any, tuple[str, str]] = {}
    for place, kind, text in pieces:
        whole[place] = (kind, whole.get(place, (kind, ""))[1] + text)
    return list(whole.values())


def chat_whole(answer: dict[str, Any]) -> Turn:
    (choice,) = answer["choices"]
    message = choice["message"]
    parts = [("text", message["content"])] if message["content"] else []
    parts += [("call", call["function"]["arguments"]) for call in message.get("tool_calls", [])]
    return parts, choice["finish_reason"]


def chat_streamed(chunks: list[dict[str, Any]]) -> Turn:
    choices = [chunk["choices"][0] for chunk in chunks]
    deltas = [choice["delta"] for choice in choices]
    pieces = [(-1, "text", delta["content"]) for delta in deltas if delta.get("content")]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    pieces += [(call["index"], "call", call["function"]["arguments"]) for call in calls]
    (reason,) = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return joined(pieces), reason


def response_whole(answer: dict[str, Any]) -> Turn:
    parts = [
        ("text", item["content"][0]["text"])
        if item["type"] == "message"
        else ("call", item["arguments"])
        for item in answer["output"]
    ]
    return [part for part in parts if part != ("text", "")], answer["status"]


def response_streamed(found: list[dict[str, Any]]) -> Turn:
    kinds = {"response.output_text.delta": "text", "response.function_call_arguments.delta": "call"}
    begun = [e for e in found if e["type"] == "response.output_item.added"]
    calls = [e for e in begun if e["item"]["type"] == "function_call"]
    pieces = [(e["output_index"], "call", "") for e in calls]
    pieces += [(e["output_index"], kinds[e["type"]], e["delta"]) for e in found if "delta" in e]
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    return joined(sorted(pieces, key=lambda piece: piece[0])), found[-1]["response"]["status"]


def message_whole(answer: dict[str, Any]) -> Turn:
    parts = [
        ("text", block["text"])
        if block["type"] == "text"
        else ("call", json.dumps(block["input"], ensure_ascii=False))
        for block in answer["content"]
    ]
    return parts, answer["stop_reason"]


def message_streamed(found: list[dict[str, Any]]) -> Turn:
    begun = [e for e in found if e["type"] == "content_block_start"]
    kinds = {e["index"]: e["content_block"]["type"] for e in begun}
    pieces = [(e["index"], "call", "") for e in begun if kinds[e["index"]] == "tool_use"]
    for event in found:
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            kind = "text" if delta["type"] == "text_delta" else "call"
            text = delta["text"] if kind == "text" else delta["partial_json"]
            pieces.append((event["index"], kind, text))
    parts = [
        (kind, text if kind == "text" or is_json(text) else "{}")  # cut off: no input
        for kind, text in joined(sorted(pieces, key=lambda piece: piece[0]))
    ]
    return parts, found[-2]["delta"]["stop_reason"]


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


READERS: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (chat_whole, chat_streamed),
    "/v1/responses": (response_whole, response_streamed),
    "/v1/messages": (message_whole, message_streamed),
}


@settings(max_examples=150, deadline=None)
@given(answers, st.sampled_from(sorted(BODIES)), st.integers(1, 200))
def test_streamed_is_whole(
    served: tuple[dict[str, str], FastAPI], answer: str, path: str, limit: int
) -> None:
    writes, app = served
    writes["answer"] = answer
    whole, streamed = READERS[path]
    body = {**BODIES[path], LIMITS.get(path, "max_tokens"): limit}
    expected = whole(post(app, path, body).json())
    assert streamed(events(post(app, path, {**body, "stream": True}))) == expected
