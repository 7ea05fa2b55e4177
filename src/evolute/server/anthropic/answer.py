"""A message in the making: its blocks, and the events that tell of them.

answer.begin() -> events           message_start, ping
answer.feed(text) -> events        what these characters add
answer.end(output) -> events       the open block closed; message_delta, message_stop
answer.message                     the object, as it stands
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from evolute.lang.tools import Arguments, CallStarted, Event, Parser, Text
from evolute.types import EvoluteError, FinishReason, Output

Events = list[dict[str, Any]]


class Answer:
    """`message` is brought up to date by every step; a call's input when its block closes."""

    def __init__(self, model: str, num_prompt: int, parser: Parser) -> None:
        self._parser = parser
        self._arguments: list[str] | None = None  # of the open block, when it is a call
        self._is_open = False
        self.message: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(num_prompt, cached=0, num_output=0),
        }

    def begin(self) -> Events:
        started = {**self.message, "content": []}
        return [{"type": "message_start", "message": started}, {"type": "ping"}]

    def feed(self, text: str, *, is_last: bool) -> Events:
        found = self._parser.push(text)
        if is_last:
            found += self._parser.finish()
        return [told for event in found for told in self._add(event)]

    def end(self, output: Output) -> Events:
        """Raises EvoluteError when the engine's operator ended the request."""
        if output.finish_reason is FinishReason.ABORT:
            raise EvoluteError("the request was ended by the server's operator; send it again.")
        events = self._close()
        cached, num_output = output.cached_tokens, len(output.token_ids)
        usage = _usage(output.prompt_tokens, cached=cached, num_output=num_output)
        ending = self._ending(output)
        self.message |= {**ending, "usage": usage}
        return [
            *events,
            {"type": "message_delta", "delta": ending, "usage": usage},
            {"type": "message_stop"},
        ]

    def _ending(self, output: Output) -> dict[str, Any]:
        stop = output.matched_stop if isinstance(output.matched_stop, str) else None
        if output.finish_reason is FinishReason.LENGTH:
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if stop is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        called = any(block["type"] == "tool_use" for block in self.message["content"])
        return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}

    def _add(self, event: Event) -> Events:
        if isinstance(event, Text):
            events: Events = []
            if not self._is_open or self._arguments is not None:
                events += self._close() + self._open({"type": "text", "text": ""})
            self.message["content"][-1]["text"] += event.text
            return [*events, self._delta({"type": "text_delta", "text": event.text})]
        if isinstance(event, CallStarted):
            id = f"toolu_{uuid.uuid4().hex[:24]}"
            block = {"type": "tool_use", "id": id, "name": event.name, "input": {}}
            events = self._close() + self._open(block)
            self._arguments = []
            return events
        assert isinstance(event, Arguments) and self._arguments is not None
        self._arguments.append(event.text)
        return [self._delta({"type": "input_json_delta", "partial_json": event.text})]

    def _open(self, block: dict[str, Any]) -> Events:
        self.message["content"].append(block)
        self._is_open = True
        return [{"type": "content_block_start", "index": self._index, "content_block": dict(block)}]

    def _close(self) -> Events:
        if not self._is_open:
            return []
        if self._arguments is not None:
            self.message["content"][-1]["input"] = _input("".join(self._arguments))
        self._is_open, self._arguments = False, None
        return [{"type": "content_block_stop", "index": self._index}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1


# -- internals ---------------------------------------------------------------


def _input(arguments: str) -> dict[str, Any]:
    """A call that was cut off has no input; its text was streamed as far as it went."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(num_prompt: int, *, cached: int, num_output: int) -> dict[str, Any]:
    """`input_tokens` are those that were computed; the prompt is the sum of the three."""
    return {
        "input_tokens": num_prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": num_output,
    }
