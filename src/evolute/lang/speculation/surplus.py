"""What did an earlier call write too much? For endpoints that complete text.

    Surplus(num_tokens, counts)                    of one stream; a backend has no such state
    surplus.constant(text) -> bool                 True: the text was written already, and is used
    await surplus.gen(request, backend) -> Reply   by a call only when nothing is left over
    surplus.close()                                the stream has ended

A call is asked for more tokens than its gen needs and without the gen's stops. What it wrote
beyond them answers later constants and gens as long as it says what the program says. With greedy
decoding every text is that of ordinary calls. Tokens are counted from what the endpoint tells, or
by a tokenizer, never as characters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from evolute.lang.account import Spent
from evolute.lang.backend import Reply, TextBackend, TextRequest
from evolute.lang.choices import prompt_of
from evolute.lang.speculation.counts import SurplusCounts
from evolute.types import ConfigError, FinishReason, Output, SamplingParams, Tokenizer

OWN = ("max_new_tokens", "stop", "include_stop", "seed")  # each gen's; all others must agree
BROKEN = "\ufffd"  # how a character shows whose bytes are not all there


@dataclass(slots=True)
class _Left:
    """Text after `prompt`, not used yet. `is_ended`: the model ended there by itself."""

    prompt: str
    text: str
    is_ended: bool
    maker: SamplingParams


class Surplus:
    """What one stream has left over. Not thread-safe: a stream is one task.

    `tokenizer` counts where the backend tells no tokens; without it only gens with a stop string
    are answered from what is left. Raises ConfigError for a `num_tokens` below 1.
    """

    def __init__(
        self, num_tokens: int, counts: SurplusCounts, tokenizer: Tokenizer | None = None
    ) -> None:
        if num_tokens < 1:
            raise ConfigError(f"num_api_spec_tokens is {num_tokens}; it must be at least 1.")
        self.num_tokens, self.counts = num_tokens, counts
        self._tokenizer = tokenizer
        self._left: _Left | None = None

    def constant(self, text: str) -> bool:
        """The program appends `text`. If that is not how the model went on, the rest is dropped."""
        left = self._left
        if left is None or not text:
            return False
        if not left.text.startswith(text):
            self._drop(is_miss=bool(left.text))
            return False
        left.prompt, left.text = left.prompt + text, left.text[len(text) :]
        return True

    async def gen(self, request: TextRequest, backend: TextBackend) -> Reply:
        """The answer to `request`. Raises ConfigError when its sampling differs from that of the
        call that made what is left."""
        if not _can_share(request):
            self._drop()
            return await backend.generate(request)
        left = self._left
        if left is not None and left.prompt != request.prompt.text:
            self._drop()  # something else was appended
        elif left is not None and left.text:
            refuse_unless_alike(left.maker, request.sampling)
            output = await self._next(left, request.sampling, backend)
            if output is not None:
                self.counts.hits += 1
                return Reply((output,), Spent(calls_saved=1), ((),))
            self._drop(is_miss=True)
        return await self._call(request, backend)

    def close(self) -> None:
        """What is left was for nothing."""
        self._drop()

    # -- internals ---------------------------------------------------------------

    async def _call(self, request: TextRequest, backend: TextBackend) -> Reply:
        sampling = request.sampling
        if not sampling.stop and not self._counts_tokens(backend):
            return await backend.generate(request)
        most = max(sampling.max_new_tokens, self.num_tokens)
        longer = replace(sampling, max_new_tokens=most, stop=(), include_stop=False)
        reply = await backend.generate(replace(request, sampling=longer))
        (made,) = reply.outputs
        if made.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return reply
        is_ended = made.finish_reason is FinishReason.STOP
        left = self._left = _Left(request.prompt.text, made.text, is_ended, sampling)
        output = await self._first(left, sampling, backend, made, reply.spent.output_tokens)
        if output is not None:
            return replace(reply, outputs=(output,), tool_calls=((),))
        self._drop(is_miss=True)  # no stop came, and nobody can say where its tokens end
        again = await backend.generate(request)
        return replace(again, spent=reply.spent + again.spent)

    async def _first(
        self,
        left: _Left,
        sampling: SamplingParams,
        backend: TextBackend,
        made: Output,
        num_made: int,
    ) -> Output | None:
        """What the gen takes that the call was made for: as much as an ordinary call had made."""
        head, is_full = left.text, not left.is_ended
        if num_made > sampling.max_new_tokens:
            known = await self._head(head, sampling.max_new_tokens, backend, made.token_ids)
            if known is None:
                return self._until_stop(left, sampling, head, made)
            head, is_full = known
        output = self._until_stop(left, sampling, head, made)
        return output or self._take(left, len(head), made, is_full=is_full)

    async def _next(
        self, left: _Left, sampling: SamplingParams, backend: TextBackend
    ) -> Output | None:
        """What a later gen takes; None when what is left does not reach its end."""
        known = await self._head(left.text, sampling.max_new_tokens, backend)
        if known is None:
            return self._until_stop(left, sampling, left.text)
        head, is_full = known
        found = self._until_stop(left, sampling, head)
        if found is None and not is_full and not left.is_ended:
            return None  # an ordinary call would have gone on
        return found or self._take(left, len(head), is_full=is_full)

    def _until_stop(
        self, left: _Left, sampling: SamplingParams, head: str, made: Output | None = None
    ) -> Output | None:
        """Up to the stop that is complete first within `head`; None when none is."""
        found = [(head.find(s) + len(s), -len(s), s) for s in sampling.stop if s in head]
        if not found:
            return None
        end, _, stop = min(found)
        if not sampling.include_stop:
            end -= len(stop)
        return self._take(left, end, made, stop=stop)

    def _take(
        self,
        left: _Left,
        end: int,
        made: Output | None = None,
        *,
        stop: str = "",
        is_full: bool = False,
    ) -> Output:
        """The output of `left.text[:end]`. `is_full`: there are as many tokens as there may be."""
        text = left.text[:end]
        is_all = made is not None and text == made.text and not stop
        left.prompt, left.text = left.prompt + text, left.text[end:]
        return Output(
            text=text,
            token_ids=made.token_ids if made and is_all else (),
            logprobs=made.logprobs if made and is_all else (),
            finish_reason=FinishReason.LENGTH if is_full else FinishReason.STOP,
            cached_tokens=made.cached_tokens if made else 0,
            weight_version=made.weight_version if made else 0,
            prompt_tokens=made.prompt_tokens if made else 0,
            matched_stop=stop or (made.matched_stop if made and is_all else None),
        )

    async def _head(
        self, text: str, most: int, backend: TextBackend, ids: tuple[int, ...] = ()
    ) -> tuple[str, bool] | None:
        """The text of the first `most` tokens, and whether there are as many. None when nobody can
        say where they end."""
        if backend.capabilities.tokens:
            ids = ids or await backend.encode(prompt_of(text))
            whole = text if len(ids) <= most else await backend.decode(ids[:most])
        elif self._tokenizer is not None:
            ids = tuple(self._tokenizer.encode(text))
            whole = text if len(ids) <= most else self._tokenizer.decode(ids[:most])
        else:
            return None
        return _begin(text, whole), len(ids) >= most

    def _counts_tokens(self, backend: TextBackend) -> bool:
        return backend.capabilities.tokens or self._tokenizer is not None

    def _drop(self, *, is_miss: bool = False) -> None:
        left, self._left = self._left, None
        self.counts.misses += is_miss
        if left is not None and left.text and self._tokenizer is not None:
            self.counts.tokens_wasted += len(self._tokenizer.encode(left.text))


def refuse_unless_alike(maker: SamplingParams, own: SamplingParams) -> None:
    """Raises ConfigError for what two gens of one call cannot set each for itself."""
    for field in fields(SamplingParams):
        one, other = getattr(maker, field.name), getattr(own, field.name)
        if field.name not in OWN and one != other:
            raise ConfigError(
                f"a gen asks for {field.name} {other!r}, but one call writes it together with an "
                f"earlier gen, which asked for {one!r}. Give the gens of a function with "
                "num_api_spec_tokens one sampling, or leave num_api_spec_tokens out."
            )


# -- internals ---------------------------------------------------------------


def _can_share(request: TextRequest) -> bool:
    """Others are called as ever: what ends or shapes them is known to the endpoint alone."""
    sampling = request.sampling
    return (
        sampling.n == 1
        and sampling.max_new_tokens > 0
        and not sampling.is_constrained
        and not sampling.stop_regex
        and not sampling.stop_token_ids
        and not sampling.min_new_tokens
        and not sampling.top_logprobs
        and not sampling.logprob_token_ids
        and not sampling.prompt_logprobs
        and not request.wants_logprobs
        and not request.tools
    )


def _begin(text: str, decoded: str) -> str:
    """What both begin with: a cut character, or a tokenizer that adds a space, ends it early."""
    whole = decoded.rstrip(BROKEN)
    size = 0
    for one, other in zip(text, whole):
        if one != other:
            break
        size += 1
    return text[:size]
