"""Outputs as /generate shows them.

    answer(item, output, ...)      one finished output
    partial(item, progress, ...)   one that is being made: Progress is what has come so far

A log-probability is [value, token id, text or null]; alternatives are a list of those at each
position, null where nothing predicts the token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.server.logprobs import LEAST, token_text
from evolute.server.native.prompts import Item
from evolute.types import Delta, FinishReason, Output, Tokenizer, TopLogprob

Entry = list[Any]  # [logprob, token id, text or None]


@dataclass(slots=True)
class Progress:
    """One output so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    ids: list[tuple[float, ...]] = field(default_factory=list)
    cached_tokens: int = 0
    _num_told: int = 0  # tokens at the last event

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.top += delta.top_logprobs
        self.ids += delta.id_logprobs
        self.cached_tokens = delta.cached_tokens

    def is_due(self, interval: int) -> bool:
        """Whether an event is due; if so the next one is counted from here."""
        is_due = len(self.token_ids) - self._num_told >= interval
        if is_due:
            self._num_told = len(self.token_ids)
        return is_due


def answer(
    item: Item, output: Output, label: str, tokenizer: Tokenizer, *, with_text: bool
) -> dict[str, Any]:
    meta = _meta(item, _finish(output), len(output.token_ids), output.cached_tokens, label)
    meta["num_retractions"] = output.num_preemptions
    if item.told.is_wanted:
        write = _Writer(tokenizer, with_text)
        meta |= _prompt_part(item, output, write)
        meta |= _output_part(
            item, output.token_ids, output.logprobs, output.top_logprobs, output.id_logprobs, write
        )
    return {"text": output.text, "output_ids": list(output.token_ids), "meta_info": meta}


def partial(
    item: Item, made: Progress, label: str, tokenizer: Tokenizer, *, with_text: bool
) -> dict[str, Any]:
    meta = _meta(item, None, len(made.token_ids), made.cached_tokens, label)
    if item.told.is_wanted:
        write = _Writer(tokenizer, with_text)
        meta |= _output_part(item, made.token_ids, made.logprobs, made.top, made.ids, write)
    return {"text": made.text, "output_ids": list(made.token_ids), "meta_info": meta}


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Writer:
    tokenizer: Tokenizer
    with_text: bool

    def entry(self, logprob: float | None, token_id: int) -> Entry:
        value = LEAST if logprob is not None and not math.isfinite(logprob) else logprob
        return [value, token_id, token_text(self.tokenizer, token_id) if self.with_text else None]

    def entries(self, logprobs: Iterable[float | None], ids: Iterable[int]) -> list[Entry]:
        return [self.entry(value, id) for value, id in zip(logprobs, ids)]

    def top(self, ranked: Sequence[TopLogprob]) -> list[Entry] | None:
        return [self.entry(one.logprob, one.token_id) for one in ranked] or None


def _meta(
    item: Item, finish: dict[str, Any] | None, num_tokens: int, cached: int, label: str
) -> dict[str, Any]:
    return {
        "id": item.request.id,
        "finish_reason": finish,
        "prompt_tokens": len(item.request.prompt),
        "completion_tokens": num_tokens,
        "cached_tokens": cached,
        "reasoning_tokens": 0,
        "weight_version": label,
    }


def _finish(output: Output) -> dict[str, Any]:
    if output.finish_reason is FinishReason.LENGTH:
        return {"type": "length", "length": len(output.token_ids)}
    if output.finish_reason is FinishReason.STOP:
        return {"type": "stop", "matched": output.matched_stop}
    return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}


def _prompt_part(item: Item, output: Output, write: _Writer) -> dict[str, Any]:
    told, prompt = item.told, item.request.prompt
    shown = prompt[told.start :] if told.start >= 0 else ()
    part: dict[str, Any] = {
        "input_token_logprobs": write.entries(output.prompt_logprobs, shown),
    }
    if told.top:
        part["input_top_logprobs"] = [write.top(row) for row in output.prompt_top_logprobs]
    if told.ids:
        part["input_token_ids_logprobs"] = [
            write.entries(row, told.ids) or None for row in output.prompt_id_logprobs
        ]
    return part


def _output_part(
    item: Item,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    top: Sequence[Sequence[TopLogprob]],
    ids: Sequence[Sequence[float]],
    write: _Writer,
) -> dict[str, Any]:
    part: dict[str, Any] = {
        "output_token_logprobs": write.entries(logprobs, token_ids),
        "output_token_logprobs_length": len(token_ids),
    }
    if item.told.top:
        part["output_top_logprobs"] = [write.top(row) for row in top]
    if item.told.ids:
        part["output_token_ids_logprobs"] = [write.entries(row, item.told.ids) for row in ids]
    return part
