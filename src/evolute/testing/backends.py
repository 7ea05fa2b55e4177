"""A backend that answers from a script: what tests use where a model would be.

ScriptedBackend(["4", "5"])                    answers in turn, then repeats the last
ScriptedBackend(lambda request: "4")           a function of the request
ScriptedBackend([OutOfCapacity("full")])       an exception in the script is raised
backend.requests                               what it was asked, in order
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from evolute.testing.tokenizers import ByteTokenizer
from evolute.types import (
    Delta,
    FinishReason,
    GenerateRequest,
    Output,
    PromptTooLong,
    Tokenizer,
    TopLogprob,
    UnknownAdapter,
    VersionSegment,
)

Answer = str | Sequence[int] | Exception
Script = Sequence[Answer] | Callable[[GenerateRequest], Answer]


class ScriptedBackend:
    """Implements `evolute.types.Backend`, with adapters, abort and stats as an engine has.

    An answer is a text, token ids, or an exception (raised before the first token). It is cut
    at `max_new_tokens` and at the first stop string; an answer that is not cut ends with the
    end-of-sequence token. The logprob of a token is -(id % 10) / 10, so tests can predict it.
    `delay_s` passes before each token. Sample i of n takes the next answer of a list.
    """

    def __init__(
        self,
        script: Script = ("ok",),
        *,
        tokenizer: Tokenizer | None = None,
        model_name: str = "scripted",
        delay_s: float = 0.0,
        adapters: Sequence[str] = (),
        context: int = 4096,
    ) -> None:
        self._script = script
        self._tokenizer = tokenizer or ByteTokenizer()
        self._model_name = model_name
        self._adapters = tuple(adapters)
        self._next = 0
        self._running: dict[str, asyncio.Event] = {}
        self.delay_s = delay_s
        self.context = context
        self.weight_version = 0
        self.requests: list[GenerateRequest] = []
        self.cancelled: list[str] = []  # ids of requests whose coroutine was cancelled

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def model_name(self) -> str:
        return self._model_name

    def adapters(self) -> tuple[str, ...]:
        return self._adapters

    def abort(self, request_id: str) -> bool:
        """End a running request with finish_reason abort; False when it is not running."""
        if request_id not in self._running:
            return False
        self._running[request_id].set()
        return True

    def stats(self) -> dict[str, float]:
        return {"requests": len(self.requests), "running": len(self._running)}

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        outputs = [delta.output async for delta in self.stream(request) if delta.output]
        return sorted(outputs, key=lambda output: output.index)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Samples one after another, token by token; text never splits a character."""
        self.requests.append(request)
        self._check(request)
        self._running[request.id] = asyncio.Event()
        try:
            for index in range(request.sampling.n):
                async for delta in self._sample(request, index, self._answer(request)):
                    yield delta
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.id)
            raise
        finally:
            del self._running[request.id]

    def _check(self, request: GenerateRequest) -> None:
        if request.adapter is not None and request.adapter not in self._adapters:
            raise UnknownAdapter(f"adapter {request.adapter!r} is not loaded; load it first.")
        if len(request.prompt) >= self.context:
            raise PromptTooLong(
                f"prompt has {len(request.prompt)} tokens, but the model holds {self.context}. "
                "Shorten the prompt."
            )

    def _answer(self, request: GenerateRequest) -> Answer:
        if callable(self._script):
            answer = self._script(request)
        else:
            answer = self._script[min(self._next, len(self._script) - 1)]
            self._next += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _sample(
        self, request: GenerateRequest, index: int, answer: Answer
    ) -> AsyncIterator[Delta]:
        token_ids, reason, matched = self._cut(request, answer)
        sent: list[int] = []
        text = ""
        for token_id in token_ids:
            await asyncio.sleep(self.delay_s)
            if self._running[request.id].is_set():
                reason, matched = FinishReason.ABORT, None
                break
            sent.append(token_id)
            piece = self._visible(request, sent, matched, final=len(sent) == len(token_ids))
            top = (self._alternatives(request, token_id),) if request.sampling.top_logprobs else ()
            yield Delta(index, piece[len(text) :], (token_id,), (_logprob(token_id),), top)
            text = piece
        output = self._output(request, index, sent, text, reason, matched)
        yield Delta(index, "", (), (), output=output)

    def _cut(
        self, request: GenerateRequest, answer: Answer
    ) -> tuple[list[int], FinishReason, str | int | None]:
        """The tokens to send, and how they end."""
        sampling, tokenizer = request.sampling, self._tokenizer
        assert not isinstance(answer, Exception)
        token_ids = tokenizer.encode(answer) if isinstance(answer, str) else list(answer)
        if not token_ids or token_ids[-1] not in tokenizer.stop_token_ids:
            token_ids.append(tokenizer.eos_token_id)
        for end in range(1, min(len(token_ids), sampling.max_new_tokens) + 1):
            if token_ids[end - 1] in sampling.stop_token_ids:
                return token_ids[:end], FinishReason.STOP, token_ids[end - 1]
            if not sampling.stop:
                continue
            text = tokenizer.decode(token_ids[:end])
            found = next((stop for stop in sampling.stop if stop in text), None)
            if found is not None:
                return token_ids[:end], FinishReason.STOP, found
        if len(token_ids) <= sampling.max_new_tokens:
            return token_ids, FinishReason.STOP, token_ids[-1]
        return token_ids[: sampling.max_new_tokens], FinishReason.LENGTH, None

    def _visible(
        self,
        request: GenerateRequest,
        sent: Sequence[int],
        matched: str | int | None,
        *,
        final: bool,
    ) -> str:
        """Text that may be shown: no half character, nothing that may become the stop string."""
        sampling = request.sampling
        stops = self._tokenizer.stop_token_ids | set(sampling.stop_token_ids)
        kept = [id for id in sent if id not in stops]
        text = self._tokenizer.decode(kept, skip_special_tokens=sampling.skip_special_tokens)
        if isinstance(matched, str) and matched in text:
            end = text.index(matched)
            return text[: end + len(matched)] if sampling.include_stop else text[:end]
        if final:
            return text
        text = text.rstrip("\ufffd")
        for stop in sampling.stop:
            for length in range(len(stop) - 1, 0, -1):
                if text.endswith(stop[:length]):
                    return text[:-length]
        return text

    def _alternatives(self, request: GenerateRequest, token_id: int) -> tuple[TopLogprob, ...]:
        return _ranked(token_id, request.sampling.top_logprobs)

    def _output(
        self,
        request: GenerateRequest,
        index: int,
        sent: list[int],
        text: str,
        reason: FinishReason,
        matched: str | int | None,
    ) -> Output:
        sampling = request.sampling
        prompt_logprobs = (None, *(_logprob(id) for id in request.prompt[1:]))
        later = tuple(_ranked(id, sampling.prompt_top_logprobs) for id in request.prompt[1:])
        wants_top = bool(sampling.top_logprobs)
        return Output(
            text=text,
            token_ids=tuple(sent),
            logprobs=tuple(_logprob(id) for id in sent),
            finish_reason=reason,
            cached_tokens=0,
            weight_version=self.weight_version,
            prompt_tokens=len(request.prompt),
            weight_versions=(VersionSegment(self.weight_version, len(sent)),) if sent else (),
            top_logprobs=tuple(self._alternatives(request, id) for id in sent if wants_top),
            prompt_logprobs=prompt_logprobs if sampling.prompt_logprobs else (),
            prompt_top_logprobs=((), *later) if sampling.prompt_top_logprobs else (),
            matched_stop=matched,
            index=index,
            request_id=request.id,
        )


def _logprob(token_id: int) -> float:
    return -(token_id % 10) / 10


def _ranked(token_id: int, count: int) -> tuple[TopLogprob, ...]:
    others = [(token_id + k) % 256 for k in range(count)]
    return tuple(TopLogprob(id, _logprob(token_id) - k) for k, id in enumerate(others))
