"""A response in the making: the items it consists of, and the events that tell of them.

    answer.begin() -> events               created, in progress
    answer.feed(text, piece) -> events     what these characters add
    answer.end(output) -> events           the open item closed; completed or incomplete
    answer.fail(error) -> events           failed
    answer.response                        the object, as it stands

Each event has its number. Text and calls follow one another as items; text after a call is an
item of its own. Answered whole or streamed, a response is made by the same steps.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.lang.tools import Arguments, CallStarted, Event, Parser, Text, Toolset
from evolute.server import logprobs
from evolute.server.bodies import parse_arguments
from evolute.server.errors import envelope
from evolute.server.logprobs import Piece
from evolute.server.openai.responses.body import ResponseBody
from evolute.server.openai.responses.items import add_call
from evolute.types import FinishReason, Message, Output, RequestError, Tokenizer

Events = list[dict[str, Any]]


class Answer:
    """`response` is brought up to date by every step."""

    def __init__(
        self, id: str, body: ResponseBody, toolset: Toolset, model: str, parser: Parser
    ) -> None:
        self.response = _frame(id, body, toolset, model)
        self._parser = parser
        self._number = 0
        self._item: dict[str, Any] | None = None  # the open one
        self._wants_logprobs = body.wants_logprobs

    def begin(self) -> Events:
        return [self._whole("created"), self._whole("in_progress")]

    def feed(
        self, text: str, piece: Piece | None, tokenizer: Tokenizer, *, is_last: bool
    ) -> Events:
        found = self._parser.push(text)
        if is_last:
            found += self._parser.finish()
        told = logprobs.chat_logprobs(piece, tokenizer)["content"] if piece else []
        events: Events = []
        for event in found:
            events += self._add(event, told if self._wants_logprobs else [])
            told = []
        return events

    def end(self, output: Output) -> Events:
        is_cut = output.finish_reason is not FinishReason.STOP
        status = "incomplete" if is_cut else "completed"
        events: Events = []
        if not self.response["output"]:
            events += self._open(_message_item())
        events += self._close(status)
        self.response |= {"status": status, "usage": _usage(output)}
        if is_cut:
            reason = str(output.finish_reason)
            known = {"length": "max_output_tokens"}.get(reason, reason)
            self.response["incomplete_details"] = {"reason": known}
        else:
            self.response["completed_at"] = int(time.time())
        return [*events, self._whole(status)]

    def fail(self, error: Exception) -> Events:
        message = envelope(error)["error"]["message"]
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        return [self._whole("failed")]

    def messages(self) -> list[Message]:
        """The answer as it stands in the conversation that a next response builds on."""
        messages: list[Message] = []
        for item in self.response["output"]:
            if item["type"] == "message":
                text = item["content"][0]["text"]
                messages.append(Message(role="assistant", content=text))
                continue
            try:
                arguments = parse_arguments(item["arguments"], "arguments")
            except RequestError:
                continue  # cut off: nobody can have run it
            add_call(messages, item["call_id"], item["name"], arguments)
        return messages

    def _add(self, event: Event, told: Sequence[Any]) -> Events:
        events: Events = []
        if isinstance(event, Text):
            if self._item is None or self._item["type"] != "message":
                events += self._close("completed") + self._open(_message_item())
            assert self._item is not None
            part = self._item["content"][0]
            part["text"] += event.text
            part["logprobs"] += told
            more = {"content_index": 0, "delta": event.text, "logprobs": list(told)}
            return [*events, self._of_item("output_text.delta", more)]
        if isinstance(event, CallStarted):
            return self._close("completed") + self._open(_call_item(event.name))
        assert isinstance(event, Arguments) and self._item is not None
        self._item["arguments"] += event.text
        return [self._of_item("function_call_arguments.delta", {"delta": event.text})]

    def _open(self, item: dict[str, Any]) -> Events:
        self.response["output"].append(item)
        self._item = item
        content = item.get("content")
        shown = item | {"content": []} if content else dict(item)
        events = [self._event("output_item.added", {"output_index": self._index, "item": shown})]
        if content:
            part = {"content_index": 0, "part": {**content[0], "logprobs": []}}
            events.append(self._of_item("content_part.added", part))
        return events

    def _close(self, status: str) -> Events:
        item, events = self._item, []
        if item is None:
            return []
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            text = {"content_index": 0, "text": part["text"], "logprobs": list(part["logprobs"])}
            events.append(self._of_item("output_text.done", text))
            whole = {"content_index": 0, "part": dict(part)}
            events.append(self._of_item("content_part.done", whole))
        else:
            call = {"arguments": item["arguments"], "name": item["name"]}
            events.append(self._of_item("function_call_arguments.done", call))
        done = {"output_index": self._index, "item": dict(item)}
        events.append(self._event("output_item.done", done))
        self._item = None
        return events

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, more: Mapping[str, Any]) -> dict[str, Any]:
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": self._index}
        return self._event(kind, {**place, **more})

    def _whole(self, kind: str) -> dict[str, Any]:
        shown = {**self.response, "output": [dict(item) for item in self.response["output"]]}
        return self._event(kind, {"response": shown})

    def _event(self, kind: str, more: Mapping[str, Any]) -> dict[str, Any]:
        event = {"type": f"response.{kind}", "sequence_number": self._number, **more}
        self._number += 1
        return event


# -- internals ---------------------------------------------------------------


def _message_item() -> dict[str, Any]:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [part],
    }


def _call_item(name: str) -> dict[str, Any]:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": f"call_{uuid.uuid4().hex[:24]}",
        "name": name,
        "arguments": "",
    }


def _usage(output: Output) -> dict[str, Any]:
    num_output = len(output.token_ids)
    return {
        "input_tokens": output.prompt_tokens,
        "input_tokens_details": {"cached_tokens": output.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": output.prompt_tokens + num_output,
    }


def _frame(id: str, body: ResponseBody, toolset: Toolset, model: str) -> dict[str, Any]:
    """The object before anything is answered: what was asked, in the form of the answer."""
    form = body.format.model_dump(by_alias=True, exclude_none=True)
    tools = [
        {"type": "function", "description": None, "parameters": None, "strict": False, **tool}
        for tool in body.tools or ()
    ]
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": toolset.parallel,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": form},
        "tool_choice": body.tool_choice or "auto",
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }
