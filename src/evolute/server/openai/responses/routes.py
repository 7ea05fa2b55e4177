"""POST, GET and DELETE of /v1/responses, and how many tokens an input has.

    responses_router(engine, names, tool_format) -> APIRouter

A response is kept unless `store` is false; the next one may name it as `previous_response_id`.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from evolute.lang.tools import ToolFormat, Toolset, constraint, hides_tags, parser
from evolute.server import admin
from evolute.server.bodies import read
from evolute.server.conversation import Conversation, prompt_of
from evolute.server.errors import FieldError, not_supported, status_of
from evolute.server.generation import Call, ChoiceDelta, room_left
from evolute.server.logprobs import Held, Piece
from evolute.server.names import ModelNames
from evolute.server.openai.responses.answer import Answer
from evolute.server.openai.responses.body import (
    ResponseBody,
    answer_schema,
    check,
    sampling_of,
    toolset_of,
)
from evolute.server.openai.responses.items import read_input, with_instructions
from evolute.server.openai.responses.store import ResponseStore
from evolute.server.sse import EventStream, Wire, named_event, while_connected
from evolute.server.tenants import enter, owner_of
from evolute.types import Backend, Message

logger = logging.getLogger(__name__)

WIRE = Wire(event=named_event, end=b"")


def responses_router(
    engine: Backend,
    names: ModelNames,
    tool_format: ToolFormat,
    store: ResponseStore | None = None,
) -> APIRouter:
    router = APIRouter(prefix="/v1/responses")
    kept = ResponseStore() if store is None else store

    @router.post("", response_model=None)
    async def create(request: Request) -> Response:
        turn = await _turn(request, engine, names, tool_format, kept)
        if turn.body.stream:
            source = await while_connected(request, turn.call.deltas(engine))
            return EventStream(source, turn.events, WIRE)
        return JSONResponse(await while_connected(request, turn.whole()))

    @router.post("/input_tokens")
    async def count(request: Request) -> JSONResponse:
        asked = await _read(request, engine, names, kept)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": len(asked.prompt)})

    @router.get("/{id}")
    async def retrieve(request: Request, id: str) -> JSONResponse:
        for name, value in request.query_params.items():
            if (name, value) != ("stream", "false"):
                raise not_supported(name, "a stored response is given back whole.")
        return JSONResponse(kept.get(_owner(request), id).response)

    @router.delete("/{id}")
    async def delete(request: Request, id: str) -> JSONResponse:
        kept.delete(_owner(request), id)
        return JSONResponse({"id": id, "object": "response", "deleted": True})

    @router.post("/{id}/cancel")
    async def cancel(request: Request, id: str) -> JSONResponse:
        kept.get(_owner(request), id)
        text = f"response {id!r} was not made with background=true, which alone can be cancelled."
        raise FieldError(text, param="response_id", code="not_cancellable")

    @router.get("/{id}/input_items", include_in_schema=False)
    async def input_items(id: str) -> JSONResponse:
        reason = "items are kept as a conversation, not one by one."
        raise not_supported("input_items", reason, status=501)

    return router


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Turn:
    """One POST: the call, the answer in the making, and where it is kept."""

    body: ResponseBody
    call: Call
    answer: Answer
    engine: Backend
    store: ResponseStore
    owner: str
    messages: list[Message]  # before the answer, instructions left out

    async def whole(self) -> dict[str, Any]:
        if self.body.wants_logprobs:  # tokens must be told with the text that they made
            source = await self.call.deltas(self.engine)
            try:
                async for _ in self._steps(source):
                    pass
            finally:
                await source.aclose()
            return self.answer.response
        ((output,),) = await self.call.outputs(self.engine)
        self.answer.feed(output.text, None, self.engine.tokenizer, is_last=True)
        self.answer.end(output)
        self._keep()
        return self.answer.response

    async def events(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        try:
            async for event in self._steps(source):
                yield event
        except Exception as error:
            if status_of(error) >= 500:
                logger.error("a response failed", exc_info=error)
            for event in self.answer.fail(error):
                yield event

    async def _steps(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        held = Held()
        for event in self.answer.begin():
            yield event
        async for _, delta in source:
            piece: Piece | None = held.push(delta)
            is_last = delta.output is not None
            for event in self.answer.feed(
                delta.text, piece, self.engine.tokenizer, is_last=is_last
            ):
                yield event
            if delta.output is not None:
                last = self.answer.end(delta.output)
                self._keep()
                for event in last:
                    yield event

    def _keep(self) -> None:
        if self.body.store is not False:
            response = self.answer.response
            messages = [*self.messages, *self.answer.messages()]
            self.store.put(self.owner, response["id"], response, messages)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A body, checked, and what it says to the model."""

    body: ResponseBody
    adapter: str | None
    toolset: Toolset
    messages: list[Message]
    prompt: Sequence[int]


async def _read(
    request: Request, engine: Backend, names: ModelNames, store: ResponseStore
) -> _Asked:
    body = await read(request, ResponseBody)
    adapter = await names.resolve(body.model)
    check(body)
    toolset = toolset_of(body)
    earlier: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        kept = store.get(_owner(request), body.previous_response_id, "previous_response_id")
        earlier = kept.messages
    messages = read_input(body.input, earlier)
    conversation = Conversation(with_instructions(body.instructions, messages), toolset)
    prompt = await prompt_of(conversation, engine)
    return _Asked(body, adapter, toolset, messages, prompt)


async def _turn(
    request: Request,
    engine: Backend,
    names: ModelNames,
    tool_format: ToolFormat,
    store: ResponseStore,
) -> _Turn:
    asked = await _read(request, engine, names, store)
    body, toolset, prompt, adapter = asked.body, asked.toolset, asked.prompt, asked.adapter
    has_special_tags = bool(toolset.offered) and hides_tags(engine.tokenizer, tool_format)
    grammar = constraint(
        toolset,
        tool_format,
        schema=answer_schema(body),
        field="text.format",
        has_special_tags=has_special_tags,
    )
    sampling = sampling_of(
        body,
        grammar,
        max_new_tokens=body.max_output_tokens or room_left(len(prompt), admin.context_of(engine)),
        skip_special_tokens=not has_special_tags,
    )
    tenant = enter(request, user=body.user, adapter=adapter)
    settings = {"adapter": adapter, "tenant": tenant, "deadline_s": body.deadline_s}
    session = body.prompt_cache_key or ""
    call = Call.of("resp", [prompt], sampling, session=session, **settings)
    id = f"resp_{uuid.uuid4().hex}"
    answer = Answer(id, body, toolset, names.shown(body.model), parser(toolset, tool_format))
    return _Turn(body, call, answer, engine, store, _owner(request), asked.messages)


def _owner(request: Request) -> str:
    """Whose responses these are; without keys, whoever sends the same one, kept as a digest."""
    owner = owner_of(request)
    if owner is not None:
        return owner
    sent = request.headers.get("authorization") or request.headers.get("x-api-key") or ""
    return hashlib.sha256(sent.encode()).hexdigest()
