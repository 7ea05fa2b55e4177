"""POST /v1/messages and POST /v1/messages/count_tokens.

messages_router(engine, names, tool_format) -> APIRouter
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from evolute.lang.tools import ToolFormat, constraint, hides_tags, parser
from evolute.server.anthropic.answer import Answer
from evolute.server.anthropic.blocks import conversation_of
from evolute.server.anthropic.body import (
    CountBody,
    MessagesBody,
    answer_schema,
    sampling_of,
    toolset_of,
)
from evolute.server.bodies import read
from evolute.server.conversation import prompt_of
from evolute.server.errors import anthropic_envelope
from evolute.server.generation import Call, ChoiceDelta
from evolute.server.names import ModelNames
from evolute.server.sse import EventStream, Wire, named_event, while_connected
from evolute.server.tenants import enter
from evolute.types import Backend

WIRE = Wire(event=named_event, error=anthropic_envelope, end=b"")


def messages_router(engine: Backend, names: ModelNames, tool_format: ToolFormat) -> APIRouter:
    router = APIRouter(prefix="/v1/messages")

    @router.post("", response_model=None)
    async def create(request: Request) -> Response:
        body = await read(request, MessagesBody)
        call, answer = await _turn(request, body, engine, names, tool_format)
        if body.stream:
            source = await while_connected(request, call.deltas(engine))
            return EventStream(source, partial(_events, answer), WIRE)
        ((output,),) = await while_connected(request, call.outputs(engine))
        answer.feed(output.text, is_last=True)
        answer.end(output)
        return JSONResponse(answer.message)

    @router.post("/count_tokens")
    async def count_tokens(request: Request) -> JSONResponse:
        body = await read(request, CountBody)
        await names.resolve(body.model)
        answer_schema(body)  # takes no tokens of the prompt
        prompt = await prompt_of(conversation_of(body, toolset_of(body)), engine)
        return JSONResponse({"input_tokens": len(prompt)})

    return router


# -- internals ---------------------------------------------------------------


async def _turn(
    request: Request,
    body: MessagesBody,
    engine: Backend,
    names: ModelNames,
    tool_format: ToolFormat,
) -> tuple[Call, Answer]:
    adapter = await names.resolve(body.model)
    toolset = toolset_of(body)
    prompt = await prompt_of(conversation_of(body, toolset), engine)
    has_special_tags = bool(toolset.offered) and hides_tags(engine.tokenizer, tool_format)
    grammar = constraint(
        toolset,
        tool_format,
        schema=answer_schema(body),
        field="output_config.format",
        has_special_tags=has_special_tags,
    )
    sampling = sampling_of(body, grammar, skip_special_tokens=not has_special_tags)
    user = body.metadata.user_id if body.metadata else None
    tenant = enter(request, user=user, adapter=adapter)
    settings = {"adapter": adapter, "tenant": tenant, "deadline_s": body.deadline_s}
    call = Call.of("msg", [prompt], sampling, **settings)
    return call, Answer(names.shown(body.model), len(prompt), parser(toolset, tool_format))


async def _events(
    answer: Answer, source: AsyncIterator[ChoiceDelta]
) -> AsyncIterator[dict[str, Any]]:
    for event in answer.begin():
        yield event
    async for _, delta in source:
        for event in answer.feed(delta.text, is_last=delta.output is not None):
            yield event
        if delta.output is not None:
            for event in answer.end(delta.output):
                yield event
