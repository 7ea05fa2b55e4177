"""POST /v1/chat/completions: the assistant's next turn.

    converse(request, engine, names) -> JSON or a stream of events

A stream is, per choice: a chunk with the role, chunks of text, one chunk with the finish
reason and an empty delta; then the usage chunk when asked for, then [DONE].
"""

from __future__ import annotations

import inspect
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.server import admin, logprobs
from evolute.server.bodies import ChatBody, read, sampling
from evolute.server.errors import FieldError, not_supported
from evolute.server.generation import Call, ChoiceDelta, usage
from evolute.server.logprobs import Held, Piece
from evolute.server.names import ModelNames
from evolute.server.sse import EventStream, while_connected
from evolute.server.tenants import enter
from evolute.types import Backend, Message, Output, PromptTooLong, Tokenizer

ROLES = {"system", "user", "assistant", "tool", "developer"}
FALLBACK_MAX_TOKENS = 512  # when neither the client nor the engine names a limit


async def converse(request: Request, engine: Backend, names: ModelNames) -> Response:
    body = await read(request, ChatBody)
    adapter = await names.resolve(body.model)
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError("top_logprobs needs logprobs=true.", param="top_logprobs")
    prompt = _prompt(body, engine.tokenizer)
    call = Call.of(
        "chatcmpl",
        [prompt],
        sampling(
            body,
            max_new_tokens=_max_new_tokens(body, len(prompt), admin.context_of(engine)),
            top_logprobs=body.top_logprobs or 0,
        ),
        adapter=adapter,
        tenant=enter(request, user=body.user, adapter=adapter),
        cache_salt=body.cache_salt or "",
    )
    answer = _Answer(body, engine.tokenizer, call, names.shown(body.model), int(time.time()))
    if body.stream:
        source = await while_connected(request, call.deltas(engine))
        return EventStream(source, answer.chunks)
    outputs = await while_connected(request, call.outputs(engine))
    return JSONResponse(answer.whole(outputs))


def _max_new_tokens(body: ChatBody, num_prompt: int, context: int | None) -> int:
    """What the client set, else all the room that the context has left."""
    asked = body.max_completion_tokens
    if asked is not None and body.max_tokens not in (None, asked):
        text = "max_tokens and max_completion_tokens differ; send one of them."
        raise FieldError(text, param="max_tokens")
    asked = asked or body.max_tokens
    if asked is not None:
        return asked
    if context is None:
        return FALLBACK_MAX_TOKENS
    if num_prompt >= context:
        raise PromptTooLong(
            f"the conversation has {num_prompt} tokens, but the model holds {context} with its "
            "answer. Drop earlier turns."
        )
    return context - num_prompt


def _prompt(body: ChatBody, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the conversation by the model's own template."""
    if not body.messages:
        raise FieldError("messages is empty; send at least one.", param="messages")
    messages = [_message(message, i) for i, message in enumerate(body.messages)]
    if not body.continue_final_message:
        add = body.add_generation_prompt is not False
        return tokenizer.chat(messages, add_generation_prompt=add)
    if body.add_generation_prompt:
        text = "continue_final_message excludes add_generation_prompt; keep one of them."
        raise FieldError(text, param="continue_final_message")
    chat: Any = tokenizer.chat  # not every tokenizer can leave a turn open
    if "continue_final_message" not in inspect.signature(chat).parameters:
        raise not_supported("continue_final_message", "this model's template cannot do it.")
    token_ids: list[int] = chat(messages, continue_final_message=True)
    return token_ids


def _message(message: dict[str, Any], position: int) -> Message:
    where = f"messages[{position}]"
    role = message.get("role")
    if role not in ROLES:
        text = f"{where}.role is {role!r}; it must be one of {', '.join(sorted(ROLES))}."
        raise FieldError(text, param=f"{where}.role")
    for name, value in message.items():  # clients echo answers back with null and empty fields
        if name not in ("role", "content") and value is not None and value != []:
            raise not_supported(f"{where}.{name}", "only role and text content are read yet.")
    content = _text(message.get("content"), where, is_optional=role == "assistant")
    return Message(role="system" if role == "developer" else role, content=content)


def _text(content: Any, where: str, *, is_optional: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and is_optional:
        return ""
    if not isinstance(content, list):
        text = f"{where}.content must be a text or a list of parts."
        raise FieldError(text, param=f"{where}.content")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image_url", "video_url", "audio_url", "input_audio", "file"):
            raise not_supported(f"{where}.content", f"this model reads text, not {kind}.")
        if kind != "text" or set(part) != {"type", "text"} or not isinstance(part["text"], str):
            text = f'{where}.content: a part must be {{"type": "text", "text": ...}}.'
            raise FieldError(text, param=f"{where}.content")
        texts.append(part["text"])
    return "".join(texts)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Renders one call. `chunks` and `whole` say the same, in pieces and at once."""

    body: ChatBody
    tokenizer: Tokenizer
    call: Call
    model: str
    created: int

    def whole(self, outputs: list[list[Output]]) -> dict[str, Any]:
        choices = []
        for output in outputs[0]:
            message = {"role": "assistant", "content": output.text, "refusal": None}
            choice = {"index": output.index, "message": message}
            choice |= self._tokens(Piece.of(output)) | _ending(output)
            choices.append(choice)
        return self._frame("chat.completion", choices) | {"usage": usage(outputs)}

    async def chunks(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        options = self.body.stream_options
        tail: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
        held: dict[int, Held] = defaultdict(Held)
        outputs: list[Output] = []
        async for index, delta in source:
            if index not in held:
                role = {"role": "assistant", "content": ""}
                yield self._chunk(index, role) | tail
            piece = held[index].push(delta)
            if piece is None:
                continue
            if delta.text or self._tells(piece):
                yield self._chunk(index, {"content": delta.text}, piece) | tail
            if delta.output is not None:
                outputs.append(delta.output)
                yield self._chunk(index, {}, ending=_ending(delta.output)) | tail
        if tail:
            yield self._frame("chat.completion.chunk", []) | {"usage": usage([outputs])}

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


def _ending(output: Output) -> dict[str, Any]:
    return {"finish_reason": str(output.finish_reason), "matched_stop": output.matched_stop}
