"""How does a backend of tokens become one of texts?

    OnTokens(backend)             a TextBackend on an engine, a fleet, an HTTP backend, a double
    as_text_backend(value)        the same, unless it is one already
    rendered(tokenizer, messages) what a chat template makes of messages

The tokenizer is the backend's own, and so is the chat template. What a model made is sent as the
tokens that it made; the texts between are tokenised each by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Made, Prompt, Reply, TextBackend, TextRequest
from evolute.lang.endpoints.calling import Calling
from evolute.lang.endpoints.scoring import score_each
from evolute.lang.tools import in_text, toolset_of
from evolute.types import (
    Backend,
    BackendError,
    BadGrammar,
    ConfigError,
    DeadlineMissed,
    Delta,
    FinishReason,
    GenerateRequest,
    Message,
    NotSupported,
    OutOfCapacity,
    Output,
    SamplingParams,
)

PATIENCE_S = 600.0  # how long a full queue is waited for
MAX_WAIT_S = 1.0  # between two tries
SCORING = SamplingParams(max_new_tokens=0, temperature=0.0)  # greedy: told at temperature 1


class OnTokens:
    """A `TextBackend` that can do all that there is. Stateless: any number may share a backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._tokenizer: Any = backend.tokenizer

    @property
    def model_name(self) -> str:
        return self.backend.model_name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            completes=True,
            chats=True,
            continues_turn=True,
            renders=True,
            tokens=True,
            logprobs=True,
            tools=True,
            hints=True,
            context=getattr(self.backend, "context", None),
        )

    async def generate(self, request: TextRequest) -> Reply:
        calling = Calling.of(request, self._tokenizer)
        reply = _reply(await self._ask(self._lowered(request, calling)))
        return reply if calling is None else calling.reply(reply)

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        calling = Calling.of(request, self._tokenizer)
        lowered, patience = self._lowered(request, calling), _Patience()
        while True:
            outputs: list[Output] = []
            has_begun = False
            deltas = self.backend.stream(lowered)
            try:
                async for delta in deltas:
                    has_begun = True
                    if delta.output is not None:
                        outputs.append(delta.output)
                    if calling is not None:
                        delta = calling.shown(delta)
                    if delta.text or delta.token_ids:
                        yield replace(delta, output=None)
                break
            except OutOfCapacity as error:
                if has_begun:
                    raise
                await patience.wait(error)
            finally:
                await _close(deltas)
        reply = _reply(sorted(outputs, key=lambda output: output.index))
        yield reply if calling is None else calling.reply(reply)

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encode(prompt)

    async def decode(self, token_ids: Sequence[int]) -> str:
        """Byte by byte, so that a part of an answer is a part of its text."""
        return b"".join(map(self._tokenizer.token_bytes, token_ids)).decode(errors="replace")

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        return await score_each(prefix, continuations, self._score)

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        return rendered(
            self._tokenizer,
            messages,
            tools=tools,
            is_open=is_open,
            add_generation_prompt=add_generation_prompt,
        )

    async def prepare(self, prompt: Prompt) -> Spent:
        token_ids = self._encode(prompt)
        if not token_ids:
            return Spent()
        return _spent(await self._ask(GenerateRequest(token_ids, SCORING)))

    async def flush(self) -> None:
        flush = getattr(self.backend, "flush_cache", None)
        if flush is None:
            raise NotSupported(f"{self.model_name} has no prefix cache that could be emptied.")
        await _call(flush)

    async def describe(self) -> Mapping[str, Any]:
        told: dict[str, Any] = {"model_path": self.model_name}
        for name in ("stats",):
            ask = getattr(self.backend, name, None)
            if ask is not None:
                value = await _call(ask)
                told[name] = asdict(value) if is_dataclass(value) else value  # type: ignore[arg-type]
        return told

    async def aclose(self) -> None:
        """The backend is its owner's to close."""

    # -- internals ---------------------------------------------------------------

    async def _ask(self, request: GenerateRequest) -> list[Output]:
        """A full queue is waited for: programs may be more than an engine takes at once."""
        patience = _Patience()
        while True:
            try:
                return await self.backend.agenerate(request)
            except OutOfCapacity as error:
                await patience.wait(error)

    def _lowered(self, request: TextRequest, calling: Calling | None) -> GenerateRequest:
        return GenerateRequest(
            self._encode(request.prompt),
            request.sampling if calling is None else calling.sampling,
            adapter=request.adapter,
            tenant=request.tenant,
            priority=request.priority,
            cache_salt=request.cache_salt,
            id=request.id,
        )

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        token_ids: list[int] = []
        for index, piece in enumerate(prompt.pieces):
            if isinstance(piece, Made):
                token_ids += piece.token_ids
            else:  # a chat template writes the special tokens of the beginning itself
                begins = index == 0 and not prompt.messages
                token_ids += self._tokenizer.encode(piece.text, add_special_tokens=begins)
        return tuple(token_ids)

    async def _score(
        self, prefix: tuple[int, ...], continuation: tuple[int, ...]
    ) -> tuple[tuple[float, ...], Spent]:
        sampling = replace(SCORING, prompt_logprobs=True, prompt_logprobs_from=len(prefix) - 1)
        request = GenerateRequest(prefix + continuation, sampling)
        outputs = await self._ask(request)
        told = _reply(outputs).outputs[0].prompt_logprobs[-len(continuation) :]
        if len(told) != len(continuation) or any(value is None for value in told):
            raise BackendError(f"{self.model_name} told no log-probabilities of the prompt.")
        return tuple(float(value) for value in told if value is not None), _spent(outputs)


def rendered(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    is_open: bool = False,
    add_generation_prompt: bool = False,
) -> str:
    """What a tokenizer's chat template makes of messages. Raises RequestError when it refuses.

    Tools and calls that the template does not know are written into the messages' texts.
    """
    given: dict[str, Any] = {}
    if "tools" not in getattr(tokenizer, "template_variables", ()):
        if tools or any(one["role"] == "tool" or one.get("tool_calls") for one in messages):
            messages = in_text(messages, toolset_of(tools))
    elif tools:
        given["tools"] = list(tools)
    template = getattr(tokenizer, "template", None)
    if template is not None:  # its text, not what is left of it after tokenising
        if is_open:
            return str(template.open(messages, **given))
        given["add_generation_prompt"] = add_generation_prompt
        return str(template.render(messages, **given))
    if is_open:
        given["continue_final_message"] = True
    ids = tokenizer.chat(messages, add_generation_prompt=add_generation_prompt, **given)
    return b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")


def as_text_backend(value: TextBackend | Backend) -> TextBackend:
    """`value` itself when it speaks texts, else on top of it. Raises ConfigError for the rest."""
    if isinstance(value, TextBackend):
        return value
    if isinstance(value, Backend):
        return OnTokens(value)
    raise ConfigError(
        f"{type(value).__name__} is no backend: give an Engine, RuntimeEndpoint(url), OpenAI(...) "
        "or anything that satisfies evolute.types.Backend."
    )


# -- internals ---------------------------------------------------------------


class _Patience:
    """Waits between tries, PATIENCE_S in all; then the refusal is raised."""

    def __init__(self) -> None:
        self._ends_s = time.monotonic() + PATIENCE_S

    async def wait(self, error: OutOfCapacity) -> None:
        if isinstance(error, DeadlineMissed) or time.monotonic() >= self._ends_s:
            raise error
        await asyncio.sleep(min(error.retry_after_s, MAX_WAIT_S))


def _reply(outputs: Sequence[Output]) -> Reply:
    """Raises what an output failed with: an answer that never was is no text."""
    for output in outputs:
        if output.is_refused:
            raise BadGrammar(output.error or "the grammar failed.")
        if output.finish_reason is FinishReason.ERROR:
            raise BackendError(output.error or "the engine failed while it was answering.")
        if output.finish_reason is FinishReason.DEADLINE:
            raise DeadlineMissed(output.error or "too late", output.retry_after_s or 1.0)
    return Reply(tuple(outputs), _spent(outputs))


def _spent(outputs: Sequence[Output]) -> Spent:
    """A prompt is billed once, however many samples it has."""
    return Spent(
        calls=1,
        prompt_tokens=outputs[0].prompt_tokens,
        cached_tokens=outputs[0].cached_tokens,
        output_tokens=sum(len(output.token_ids) for output in outputs),
    )


async def _call(function: Callable[[], Any]) -> Any:
    value = await asyncio.to_thread(function)
    return await value if inspect.isawaitable(value) else value


async def _close(deltas: AsyncIterator[Delta]) -> None:
    """Leaving a stream early aborts its request now, not when it is collected."""
    close = getattr(deltas, "aclose", None)
    if close is not None:
        await close()
