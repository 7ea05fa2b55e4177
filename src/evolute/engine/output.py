"""One output in the making: tokens, text, stops, and what was measured on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evolute.engine.execution.sampler import Chosen, Row
from evolute.engine.scheduling import Sequence
from evolute.engine.text import TextStream
from evolute.grammar import Matcher
from evolute.types import (
    Delta,
    FinishReason,
    GenerateRequest,
    Output,
    Tokenizer,
    TopLogprob,
    VersionSegment,
)


@dataclass(slots=True, eq=False)
class Draft:
    """A request's `index`-th output. `output` is set once, when it is finished."""

    request: GenerateRequest
    index: int
    sequence: Sequence
    text_stream: TextStream
    seed: int
    stop_token_ids: frozenset[int]
    vocab_size: int
    matcher: Matcher | None = None
    token_ids: list[int] = field(default_factory=list)  # those of `sequence` after the prompt
    texts: list[str] = field(default_factory=list)  # what was shown so far, in pieces
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    id_logprobs: list[tuple[float, ...]] = field(default_factory=list)
    prompt_logprobs: list[float | None] = field(default_factory=list)
    prompt_top_logprobs: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    prompt_id_logprobs: list[tuple[float, ...]] = field(default_factory=list)
    versions: list[list[int]] = field(default_factory=list)  # [version, tokens], as they came
    matched_stop: str | int | None = None
    error: str | None = None
    retry_after_s: float | None = None  # of one that is ended for its deadline
    is_refused: bool = False  # what failed is the request's own doing
    output: Output | None = None

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.request.sampling.prompt_logprobs

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """They are wanted, and some are not known yet."""
        wanted = len(self.request.prompt) - self.request.sampling.prompt_logprobs_from
        return self.wants_prompt_logprobs and len(self.prompt_logprobs) < wanted

    def tell_prompt(
        self, logprob: float | None, top: tuple[TopLogprob, ...], ids: tuple[float, ...]
    ) -> None:
        """Add what is known of the next prompt token."""
        self.prompt_logprobs.append(logprob)
        if self.request.sampling.prompt_top_logprobs:
            self.prompt_top_logprobs.append(top)
        if self.request.sampling.logprob_token_ids:
            self.prompt_id_logprobs.append(ids)

    def forced(self, most: int) -> list[int]:
        """The next tokens, at most `most`, that the grammar leaves no choice about. Without one
        that ends the output: nothing is computed after it."""
        tokens = self.matcher.forced_tokens()[:most] if self.matcher and most else []
        if self.matcher and tokens:
            ahead = self.matcher.copy()
            if all(ahead.accept(token) for token in tokens) and ahead.is_finished:
                tokens.pop()
        return tokens

    def rows(self, drafted: list[int]) -> list[Row]:
        """What the choices of the next tokens depend on: of the first, then of one after each
        guess, as if the guesses before it had been accepted. Fewer, but at least one, when the
        grammar refuses a guess or gives up: what it says of the next token is asked again then.
        """
        rows = [self._row([], self.matcher)]
        matcher = self.matcher.copy() if self.matcher and drafted else None
        for count in range(1, len(drafted) + 1):
            if matcher and not matcher.accept(drafted[count - 1]):
                break
            row = self._row(drafted[:count], matcher)
            if matcher and matcher.error:
                break
            rows.append(row)
        return rows

    def accept(self, chosen: Chosen, version: int) -> Delta:
        """Take the next token; sets `output` when it is the last. Returns what is new."""
        token = chosen.token_id
        self.sequence.tokens.append(token)
        self.token_ids.append(token)
        self.logprobs.append(chosen.logprob)
        self._count(version)
        if self.matcher:
            self.matcher.accept(token)
        ends = token in self.stop_token_ids
        is_shown = not ends or self.request.sampling.include_stop
        text = self.text_stream.push(token) if is_shown else ""
        if text:
            self.texts.append(text)
        top: tuple[tuple[TopLogprob, ...], ...] = ()
        if self.request.sampling.top_logprobs:
            top = (chosen.top,)
            self.top_logprobs.append(chosen.top)
        ids: tuple[tuple[float, ...], ...] = ()
        if self.request.sampling.logprob_token_ids:
            ids = (chosen.ids,)
            self.id_logprobs.append(chosen.ids)
        reason = self._reason(token, ends)
        if reason:
            text += self.finish(reason).text
        return Delta(
            self.index,
            text,
            (token,),
            (chosen.logprob,),
            top,
            self.output,
            id_logprobs=ids,
            cached_tokens=self.sequence.num_cached or 0,
            weight_version=version,
        )

    def finish(self, reason: FinishReason, error: str | None = None) -> Delta:
        """Close the output as it is. Returns what is new: text that was held back."""
        rest = self.text_stream.finish()
        self.texts.append(rest)
        sequence = self.sequence
        self.output = Output(
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            finish_reason=reason,
            cached_tokens=sequence.num_cached or 0,
            weight_version=self.versions[-1][0] if self.versions else sequence.namespace[1],
            prompt_tokens=sequence.prompt_len,
            weight_versions=tuple(VersionSegment(*one) for one in self.versions),
            top_logprobs=tuple(self.top_logprobs),
            id_logprobs=tuple(self.id_logprobs),
            prompt_logprobs=tuple(self.prompt_logprobs),
            prompt_top_logprobs=tuple(self.prompt_top_logprobs),
            prompt_id_logprobs=tuple(self.prompt_id_logprobs),
            matched_stop=self.matched_stop,
            index=self.index,
            request_id=self.request.id,
            error=error or self.error,
            is_refused=self.is_refused and not error,
            retry_after_s=self.retry_after_s,
            num_preemptions=sequence.num_preemptions,
        )
        cached, version = self.output.cached_tokens, self.output.weight_version
        return Delta(
            self.index, rest, (), (), (), self.output, cached_tokens=cached, weight_version=version
        )

    def give_up(self, error: str) -> None:
        """Close the output as failed, if it is open; text that was held back is lost if need be."""
        if self.output is not None:
            return
        try:
            self.finish(FinishReason.ERROR, error)
        except Exception:  # what is held back may be what broke
            self.text_stream.drop()
            self.finish(FinishReason.ERROR, error)

    def last_word(self) -> Delta:
        """For whom the last delta did not reach: nothing new but that it has ended."""
        assert self.output is not None, "it has not ended"
        cached, version = self.output.cached_tokens, self.output.weight_version
        return Delta(
            self.index, "", (), (), (), self.output, cached_tokens=cached, weight_version=version
        )

    def _row(self, drafted: list[int], matcher: Matcher | None) -> Row:
        """`matcher` has accepted the output and `drafted`."""
        mask = self._mask(matcher)
        output = [*self.token_ids, *drafted] if drafted else self.token_ids
        return Row(
            sampling=self.request.sampling,
            seed=self.seed,
            position=self.sequence.num_tokens + len(drafted),
            prompt=self.request.prompt,
            output=output,
            stop_token_ids=self._barred(mask, len(output)),
            mask=mask,
        )

    def _mask(self, matcher: Matcher | None) -> NDArray[np.uint32] | None:
        if matcher is None:
            return None
        mask = np.zeros(-(-self.vocab_size // 32), np.uint32)
        matcher.fill_mask(mask)
        return mask

    def _barred(self, mask: NDArray[np.uint32] | None, num_made: int) -> frozenset[int]:
        """Ids that `min_new_tokens` bars for now; none when the grammar leaves nothing else."""
        if mask is None or num_made >= self.request.sampling.min_new_tokens:
            return self.stop_token_ids
        others = mask.copy()
        for token in self.stop_token_ids:
            others[token // 32] &= ~np.uint32(1 << token % 32)
        return self.stop_token_ids if others.any() else frozenset()

    def _count(self, version: int) -> None:
        if self.versions and self.versions[-1][0] == version:
            self.versions[-1][1] += 1
        else:
            self.versions.append([version, 1])

    def _reason(self, token: int, ends: bool) -> FinishReason | None:
        if self.matcher and self.matcher.error:  # it then offers only the end: no stop
            self.error = f"the grammar failed: {self.matcher.error}"
            self.is_refused = True
            return FinishReason.ERROR
        if ends:
            self.matched_stop = token
            return FinishReason.STOP
        if self.text_stream.matched_stop is not None:
            self.matched_stop = self.text_stream.matched_stop
            return FinishReason.STOP
        if self.matcher and self.matcher.is_finished:
            return FinishReason.STOP
        if len(self.logprobs) >= self.sequence.max_new_tokens:
            return FinishReason.LENGTH
        return None


@dataclass(frozen=True, slots=True)
class Event:
    """Something new for one draft."""

    draft: Draft
    delta: Delta


def stop_ids(request: GenerateRequest, tokenizer: Tokenizer) -> frozenset[int]:
    """Token ids that end an output of this request."""
    sampling = request.sampling
    if sampling.ignore_eos:
        return frozenset(sampling.stop_token_ids)
    return tokenizer.stop_token_ids | frozenset(sampling.stop_token_ids)
