"""POST /v1/chat/completions: the assistant's next turn.

    converse(request, engine, names, tool_format) -> JSON or a stream of events

A stream is, per choice: a chunk with the role, chunks of text and of tool calls, one chunk with
the finish reason and an empty delta; then the usage chunk when asked for, then [DONE]. The
first chunk of a call has its id and name, later ones only pieces of its arguments.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.lang.tools import (
    Arguments,
    CallStarted,
    Collected,
    Event,
    Parser,
    Text,
    ToolFormat,
    Toolset,
    collect,
    constraint,
    hides_tags,
    new_call_id,
    parser,
)
from evolute.server import admin, logprobs
from evolute.server.bodies import read
from evolute.server.conversation import Conversation, prompt_of
from evolute.server.errors import FieldError
from evolute.server.generation import Call, ChoiceDelta, room_left, usage
from evolute.server.logprobs import Held, Piece
from evolute.server.names import ModelNames
from evolute.server.openai.bodies import ChatBody, answer_schema, sampling
from evolute.server.openai.messages import read_messages, read_toolset
from evolute.server.openai.usage import RunningUsage
from evolute.server.sse import EventStream, while_connected
from evolute.server.tenants import enter
from evolute.types import Backend, FinishReason, Output, SamplingParams, Tokenizer


async def converse(
    request: Request, engine: Backend, names: ModelNames, tool_format: ToolFormat
) -> Response:
    body = await read(request, ChatBody)
    adapter = await names.resolve(body.model)
    toolset = read_toolset(body.tools, body.tool_choice, body.parallel_tool_calls)
    prompt = await prompt_of(_conversation(body, toolset), engine)
    call = Call.of(
        "chatcmpl",
        [prompt],
        _sampling(body, toolset, tool_format, len(prompt), engine),
        adapter=adapter,
        tenant=enter(request, user=body.user, adapter=adapter),
        cache_salt=body.cache_salt or "",
        priority=body.priority or 0,
        deadline_s=body.deadline_s,
        session=body.prompt_cache_key or "",
    )
    reading = _Reading(toolset, tool_format)
    model = names.shown(body.model)
    answer = _Answer(body, engine.tokenizer, call, model, int(time.time()), reading)
    if body.stream:
        source = await while_connected(request, call.deltas(engine))
        return EventStream(source, answer.chunks)
    outputs = await while_connected(request, call.outputs(engine))
    return JSONResponse(answer.whole(outputs))


# -- internals ---------------------------------------------------------------


def _sampling(
    body: ChatBody, toolset: Toolset, tool_format: ToolFormat, num_prompt: int, engine: Backend
) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError("top_logprobs needs logprobs=true.", param="top_logprobs")
    has_special_tags = bool(toolset.offered) and hides_tags(engine.tokenizer, tool_format)
    if toolset.offered:
        _refuse_other_grammars(body)
    if has_special_tags and body.skip_special_tokens is None:
        body.skip_special_tokens = False
    return sampling(
        body,
        max_new_tokens=_max_new_tokens(body, num_prompt, admin.context_of(engine)),
        top_logprobs=body.top_logprobs or 0,
        grammar=constraint(
            toolset,
            tool_format,
            schema=answer_schema(body),
            field="response_format" if body.response_format else "json_schema",
            has_special_tags=has_special_tags,
        ),
    )


def _refuse_other_grammars(body: ChatBody) -> None:
    """An answer of a JSON schema and calls go together; of another grammar we cannot tell."""
    for name, value in (("regex", body.regex), ("lark", body.lark), ("ebnf", body.ebnf)):
        if value:
            text = f"{name} excludes tools. Leave it out, or choose tool_choice none."
            raise FieldError(text, param=name)


def _max_new_tokens(body: ChatBody, num_prompt: int, context: int | None) -> int:
    """What the client set, else all the room that the context has left."""
    asked = body.max_completion_tokens
    if asked is not None and body.max_tokens not in (None, asked):
        text = "max_tokens and max_completion_tokens differ; send one of them."
        raise FieldError(text, param="max_tokens")
    return asked or body.max_tokens or room_left(num_prompt, context)


def _conversation(body: ChatBody, toolset: Toolset) -> Conversation:
    messages = read_messages(body.messages)
    if body.continue_final_message and body.add_generation_prompt:
        text = "continue_final_message excludes add_generation_prompt; keep one of them."
        raise FieldError(text, param="continue_final_message")
    return Conversation(
        messages,
        toolset,
        add_generation_prompt=body.add_generation_prompt is not False,
        is_open=bool(body.continue_final_message),
        variables=body.chat_template_kwargs or {},
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """How an answer's text is read."""

    toolset: Toolset
    format: ToolFormat

    def parser(self) -> Parser:
        return parser(self.toolset, self.format)

    def whole(self, text: str) -> Collected:
        reader = self.parser()
        return collect([*reader.push(text), *reader.finish()])


class _Choice:
    """One choice of a stream: what was read of it, and what is still to be told."""

    def __init__(self, reader: Parser) -> None:
        self._reader = reader
        self.held = Held()
        self.arguments: list[str] | None = None  # of the last call

    def deltas(self, text: str, *, is_last: bool) -> list[dict[str, Any]]:
        """The deltas that these characters make."""
        events = self._reader.push(text)
        if is_last:
            events += self._reader.finish()
        return [self._delta(event) for event in events]

    def _delta(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Text):
            return {"content": event.text}
        call: dict[str, Any] = {"index": event.index}
        if isinstance(event, CallStarted):
            self.arguments = []
            call |= {"id": new_call_id(), "type": "function"}
            call["function"] = {"name": event.name, "arguments": ""}
        else:
            assert isinstance(event, Arguments) and self.arguments is not None
            self.arguments.append(event.text)
            call["function"] = {"arguments": event.text}
        return {"tool_calls": [call]}


@dataclass(frozen=True, slots=True)
class _Answer:
    """Renders one call. `chunks` and `whole` say the same, in pieces and at once."""

    body: ChatBody
    tokenizer: Tokenizer
    call: Call
    model: str
    created: int
    reading: _Reading

    def whole(self, outputs: list[list[Output]]) -> dict[str, Any]:
        choices = []
        for output in outputs[0]:
            found = self.reading.whole(output.text)
            message: dict[str, Any] = {"role": "assistant", "content": found.text, "refusal": None}
            if found.calls:
                message["content"] = found.text or None
                message["tool_calls"] = _calls(found)
            choice: dict[str, Any] = {"index": output.index, "message": message}
            last = found.calls[-1].arguments if found.calls else None
            choice |= self._tokens(Piece.of(output)) | _ending(output, last)
            choices.append(choice)
        return self._frame("chat.completion", choices) | {"usage": usage(outputs)}

    async def chunks(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        counts = RunningUsage(self.call, self.body.stream_options)
        choices: dict[int, _Choice] = {}
        async for index, delta in source:
            counts.add(index, delta)
            if index not in choices:
                choices[index] = _Choice(self.reading.parser())
                role = {"role": "assistant", "content": ""}
                yield self._chunk(index, role) | counts.tail()
            choice, output = choices[index], delta.output
            piece = choice.held.push(delta)
            deltas = choice.deltas(delta.text, is_last=output is not None)
            if not deltas and piece is not None and self._tells(piece):
                deltas = [{"content": ""}]
            for part in deltas:
                yield self._chunk(index, part, piece or Piece()) | counts.tail()
                piece = None
            if output is not None:
                arguments = choice.arguments
                ending = _ending(output, None if arguments is None else "".join(arguments))
                yield self._chunk(index, {}, ending=ending) | counts.tail()
        if counts.is_wanted:
            yield self._frame("chat.completion.chunk", []) | {"usage": counts.total()}

    def _tells(self, piece: Piece) -> bool:
        """True when tokens without text are still news to this client."""
        return bool(piece.token_ids and (self.body.logprobs or self.body.return_token_ids))

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        piece: Piece | None = None,
        ending: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta}
        choice |= {"logprobs": None} if piece is None else self._tokens(piece)
        choice |= ending or {"finish_reason": None}
        return self._frame("chat.completion.chunk", [choice])

    def _tokens(self, piece: Piece) -> dict[str, Any]:
        wanted = logprobs.chat_logprobs(piece, self.tokenizer) if self.body.logprobs else None
        found: dict[str, Any] = {"logprobs": wanted}
        return found | (logprobs.raw(piece) if self.body.return_token_ids else {})

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.call.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _calls(found: Collected) -> list[dict[str, Any]]:
    return [
        {
            "id": new_call_id(),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in found.calls
    ]


def _ending(output: Output, arguments: str | None) -> dict[str, Any]:
    """A turn that was cut off stays so, also by a stop string within its last call."""
    reason = str(output.finish_reason)
    if output.finish_reason is FinishReason.STOP and arguments is not None and _is_json(arguments):
        reason = "tool_calls"
    return {"finish_reason": reason, "matched_stop": output.matched_stop}


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except ValueError:
        return False
    return True
