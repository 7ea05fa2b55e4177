"""POST /v1/completions: continue texts or token ids.

    complete(request, engine, names) -> JSON or a stream of events

Prompts in one body are answered as one list of choices, prompt-major and sample-minor. Beside
OpenAI's fields a choice carries `matched_stop`, and with `return_token_ids` the ids, their
log-probabilities and the weight versions: what a trainer needs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.server import logprobs
from evolute.server.bodies import MAX_CHOICES, check_text, check_token_ids, read
from evolute.server.encoding import encoded
from evolute.server.errors import FieldError, not_supported
from evolute.server.generation import Call, ChoiceDelta, usage
from evolute.server.logprobs import Held, Piece
from evolute.server.names import ModelNames
from evolute.server.openai.bodies import CompletionBody, answer_schema, sampling
from evolute.server.openai.usage import RunningUsage
from evolute.server.sse import EventStream, while_connected
from evolute.server.tenants import enter
from evolute.types import Backend, Output, Tokenizer

DEFAULT_MAX_TOKENS = 16


async def complete(request: Request, engine: Backend, names: ModelNames) -> Response:
    body = await read(request, CompletionBody)
    adapter = await names.resolve(body.model)
    _refuse(body)
    prompts = await encoded(body.prompt, _prompts, body, engine)
    schema = answer_schema(body)
    call = Call.of(
        "cmpl",
        prompts,
        sampling(
            body,
            max_new_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            top_logprobs=body.logprobs or 0,
            grammar={} if schema is None else {"json_schema": schema},
            prompt_logprobs=_wants_prompt_logprobs(body),
            prompt_top_logprobs=(body.logprobs or 0) if body.echo else 0,
        ),
        adapter=adapter,
        tenant=enter(request, user=body.user, adapter=adapter),
        cache_salt=body.cache_salt or "",
        priority=body.priority or 0,
        deadline_s=body.deadline_s,
        session=body.prompt_cache_key or "",
    )
    answer = _Answer(body, engine.tokenizer, call, names.shown(body.model), int(time.time()))
    if body.stream:
        source = await while_connected(request, call.deltas(engine))
        return EventStream(source, answer.chunks)
    outputs = await while_connected(request, call.outputs(engine))
    return JSONResponse(answer.whole(outputs))


def _wants_prompt_logprobs(body: CompletionBody) -> bool:
    return bool(body.prompt_logprobs or (body.echo and body.logprobs is not None))


def _refuse(body: CompletionBody) -> None:
    """Fields that parse but cannot be honoured together."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise not_supported("best_of", "all samples are returned; use n.")
    if body.stream and _wants_prompt_logprobs(body):
        field = "prompt_logprobs" if body.prompt_logprobs else "echo"
        raise not_supported(field, "log-probabilities of the prompt are not streamed.")


def _prompts(body: CompletionBody, engine: Backend) -> list[list[int]]:
    """Token ids of each prompt. Raises FieldError when one is empty or there are too many."""
    tokenizer = engine.tokenizer
    prompt: Any = body.prompt
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    num_choices = len(prompt) * (body.n or 1)  # before anything is encoded
    if num_choices > MAX_CHOICES:
        text = f"{num_choices} completions in one call; at most {MAX_CHOICES} are allowed."
        raise FieldError(text, param="prompt")
    token_lists = []
    for item in prompt:
        if isinstance(item, str):
            check_text(item, engine)
            item = tokenizer.encode(item, add_special_tokens=True)
        else:
            check_token_ids(item, tokenizer.vocab_size, "prompt")
        token_lists.append(list(item))
    if not token_lists or not all(token_lists):
        raise FieldError("Prompt cannot be empty; send at least one token.", param="prompt")
    return token_lists


@dataclass(frozen=True, slots=True)
class _Answer:
    """Renders one call. `chunks` and `whole` say the same, in pieces and at once."""

    body: CompletionBody
    tokenizer: Tokenizer
    call: Call
    model: str
    created: int

    def whole(self, outputs: list[list[Output]]) -> dict[str, Any]:
        flat = [output for group in outputs for output in group]
        choices = [self._choice(index, output) for index, output in enumerate(flat)]
        return self._frame(choices) | {"usage": usage(outputs)}

    async def chunks(self, source: AsyncIterator[ChoiceDelta]) -> AsyncIterator[dict[str, Any]]:
        """Text as it comes; a chunk with the finish reason per choice; usage when asked."""
        counts = RunningUsage(self.call, self.body.stream_options)
        held: dict[int, Held] = defaultdict(Held)
        async for index, delta in source:
            counts.add(index, delta)
            echo = "" if index in held else self._echo(index)
            offset = held[index].num_chars + len(self._echo(index))
            piece = held[index].push(delta)
            if echo or delta.text or self._tells(piece):
                yield (
                    self._frame([self._part(index, echo + delta.text, piece, offset)])
                    | counts.tail()
                )
            if delta.output is not None:
                yield self._frame([self._end(index, delta.output)]) | counts.tail()
        if counts.is_wanted:
            yield self._frame([]) | {"usage": counts.total()}

    def _tells(self, piece: Piece | None) -> bool:
        """True when tokens without text are still news to this client."""
        asked = self.body.logprobs is not None or bool(self.body.return_token_ids)
        return asked and piece is not None and bool(piece.token_ids)

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.call.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _echo(self, index: int) -> str:
        if not self.body.echo:
            return ""
        prompt = self.call.requests[index // self.call.num_samples].prompt
        return self.tokenizer.decode(prompt, skip_special_tokens=False)

    def _choice(self, index: int, output: Output) -> dict[str, Any]:
        echo, piece, offset = self._echo(index), Piece.of(output), 0
        if echo:
            prompt = self.call.requests[index // self.call.num_samples].prompt
            if output.prompt_logprobs:
                piece = Piece(prompt, output.prompt_logprobs, output.prompt_top_logprobs) + piece
            else:
                offset = len(echo)
        choice = self._part(index, echo + output.text, piece, offset) | self._ending(output)
        if self.body.return_token_ids:
            choice |= logprobs.raw(Piece.of(output))
            choice["weight_versions"] = [[v.version, v.num_tokens] for v in output.weight_versions]
        if self.body.prompt_logprobs:
            choice["prompt_logprobs"] = list(output.prompt_logprobs)
        return choice

    def _part(self, index: int, text: str, piece: Piece | None, offset: int) -> dict[str, Any]:
        part: dict[str, Any] = {"index": index, "text": text, "logprobs": None}
        piece = piece or Piece()
        if self.body.logprobs is not None:
            part["logprobs"] = logprobs.completion_logprobs(
                piece, self.tokenizer, offset=offset, with_top=self.body.logprobs > 0
            )
        part["finish_reason"] = None
        if self.body.return_token_ids:
            part |= logprobs.raw(piece)
        return part

    def _end(self, index: int, output: Output) -> dict[str, Any]:
        """The last chunk of a choice: why it ended, and for trainers by which weights."""
        end: dict[str, Any] = {"index": index, "text": "", "logprobs": None}
        end |= self._ending(output)
        if self.body.return_token_ids:
            end["weight_versions"] = [[v.version, v.num_tokens] for v in output.weight_versions]
            end["cached_tokens"] = output.cached_tokens
        return end

    def _ending(self, output: Output) -> dict[str, Any]:
        return {"finish_reason": str(output.finish_reason), "matched_stop": output.matched_stop}
