"""POST /generate: texts or token ids in, one object per output out.

    generate(request, operations) -> JSON or a stream of events

Outputs are prompt-major, sample-minor; a list of prompts or n > 1 is answered by a list. Each event
of a stream holds the whole text and tokens so far; log-probabilities of the prompt come with the
last one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.lang.cutting import text_prefix
from evolute.server.encoding import encoded
from evolute.server.generation import Call, ChoiceDelta
from evolute.server.native.answers import Progress, answer, partial
from evolute.server.native.bodies import GenerateBody, read
from evolute.server.native.operations import Operations
from evolute.server.native.prompts import Item, is_batch, items
from evolute.server.sse import EventStream, while_connected
from evolute.server.tenants import enter, request_id, tenant_of
from evolute.types import Backend, Delta, GenerateRequest, Output, Tokenizer


async def generate(request: Request, operations: Operations) -> Response:
    began_s = time.perf_counter()
    engine = operations.engine
    body = await read(request, GenerateBody)
    prompts = await encoded([body.text, body.input_pieces], items, body, engine)
    enter(request, user=body.user, adapter=prompts[0].request.adapter)
    asked = [_billed(request, body, item) for item in prompts]
    call = Call(asked[0].id, tuple(asked))
    timed = _Timed(engine)
    answers = _Answers(body, prompts, operations, timed, began_s, call)
    if body.stream:
        source = await while_connected(request, call.deltas(timed))
        return EventStream(source, answers.events)
    outputs = await while_connected(request, call.outputs(timed))
    return JSONResponse(answers.whole(outputs))


def _billed(request: Request, body: GenerateBody, item: Item) -> GenerateRequest:
    tenant = tenant_of(request, user=body.user, adapter=item.request.adapter)
    return replace(item.request, tenant=tenant, id=request_id(request, item.request.id))


@dataclass(slots=True)
class _Timed:
    """An engine of which is noted when each request was done; a `Backend`."""

    engine: Backend
    done_s: dict[str, float] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def model_name(self) -> str:
        return self.engine.model_name

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        outputs = await self.engine.agenerate(request)
        self.done_s[request.id] = time.perf_counter()
        return outputs

    def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        return self.engine.stream(request)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Renders one call, at once or event by event."""

    body: GenerateBody
    items: Sequence[Item]
    operations: Operations
    timed: _Timed
    began_s: float
    call: Call

    @property
    def num_samples(self) -> int:
        return self.call.num_samples

    @property
    def is_list(self) -> bool:
        return is_batch(self.body) or self.num_samples > 1

    def whole(self, outputs: Sequence[Sequence[Output]]) -> Any:
        found: list[dict[str, Any]] = []
        for item, asked, group in zip(self.items, self.call.requests, outputs):
            done_s = self.timed.done_s[asked.id]
            for output in group:
                found.append(self._answer(item, output, len(found), done_s))
        return found if self.is_list else found[0]

    async def events(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        made = [Progress() for _ in range(len(self.items) * self.num_samples)]
        async for choice, delta in source:
            item, so_far = self.items[choice // self.num_samples], made[choice]
            so_far.add(delta)
            if delta.output is not None:
                yield self._answer(item, delta.output, choice, time.perf_counter())
            elif so_far.is_due(item.interval):
                label = self._label(item, delta.weight_version)
                value = partial(item, so_far, label, self._tokenizer, **self._shown)
                yield value | ({"index": choice} if self.is_list else {})

    def _answer(self, item: Item, output: Output, choice: int, done_s: float) -> dict[str, Any]:
        label = self._label(item, output.weight_version)
        value = answer(item, output, label, self._tokenizer, **self._shown)
        value["meta_info"]["e2e_latency"] = done_s - self.began_s
        if self.is_list:
            value["index"] = value["meta_info"]["index"] = choice
        if self.body.return_text_prefix:
            value["meta_info"]["text_prefix"] = text_prefix(output, self._decode)
        if self.body.return_prompt_token_ids:
            value["prompt_token_ids"] = list(item.request.prompt)
        return value

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Byte by byte, as `lang` does: a part of an answer is a part of its text."""
        return b"".join(map(self._tokenizer.token_bytes, token_ids)).decode(errors="replace")

    @property
    def _shown(self) -> dict[str, bool]:
        return {"with_text": bool(self.body.return_text_in_logprobs)}

    @property
    def _tokenizer(self) -> Tokenizer:
        return self.operations.engine.tokenizer

    def _label(self, item: Item, version: int) -> str:
        return self.operations.version_label(version, item.request.adapter)
