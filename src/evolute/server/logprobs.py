"""Log-probabilities in OpenAI's two shapes.

    Piece, Held                        tokens with their log-probabilities; those not yet told
    completion_logprobs(piece, ...)    {tokens, token_logprobs, top_logprobs, text_offset}
    chat_logprobs(piece, ...)          {content: [{token, logprob, bytes, top_logprobs}]}

A token's text is its bytes with what is not UTF-8 replaced; `bytes` (chat) is exact. The
end-of-sequence token is listed when it was sampled, so the count equals completion_tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolute.types import Delta, Output, Tokenizer, TopLogprob

LEAST = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True)
class Piece:
    """Invariants: token_ids, logprobs have one length; top is empty or has that length too."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float | None, ...] = ()
    top: tuple[tuple[TopLogprob, ...], ...] = ()

    @classmethod
    def of(cls, source: Output | Delta) -> Piece:
        return cls(source.token_ids, source.logprobs, source.top_logprobs)

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.token_ids + other.token_ids,
            self.logprobs + other.logprobs,
            self.top + other.top,
        )


class Held:
    """Tokens of one choice whose text is still held back, to be told with the next text."""

    def __init__(self) -> None:
        self._piece = Piece()
        self.num_chars = 0  # of text told so far

    def push(self, delta: Delta) -> Piece | None:
        """The tokens to tell now with `delta.text`; None while there is nothing to show."""
        self._piece += Piece.of(delta)
        if not delta.text and delta.output is None:
            return None
        told, self._piece = self._piece, Piece()
        self.num_chars += len(delta.text)
        return told


def completion_logprobs(
    piece: Piece, tokenizer: Tokenizer, *, offset: int = 0, with_top: bool
) -> dict[str, Any]:
    """`offset` is the place of the first token in the choice's text, in characters."""
    tokens = [token_text(tokenizer, id) for id in piece.token_ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [_plain(value) for value in piece.logprobs],
        "top_logprobs": _top_dicts(piece.top, tokenizer) if with_top else None,
        "text_offset": offsets,
    }


def chat_logprobs(piece: Piece, tokenizer: Tokenizer) -> dict[str, Any]:
    content = []
    for i, (token_id, logprob) in enumerate(zip(piece.token_ids, piece.logprobs)):
        entry = _entry(tokenizer, token_id, logprob)
        ranked = piece.top[i] if piece.top else ()
        entry["top_logprobs"] = [_entry(tokenizer, t.token_id, t.logprob) for t in ranked]
        content.append(entry)
    return {"content": content, "refusal": None}


def raw(piece: Piece) -> dict[str, Any]:
    """The same by token id, for clients that asked for ids (`return_token_ids`)."""
    return {
        "token_ids": list(piece.token_ids),
        "token_logprobs": [_plain(value) for value in piece.logprobs],
        "top_token_logprobs": [
            [[t.token_id, _plain(t.logprob)] for t in ranked] for ranked in piece.top
        ],
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {
        "token": data.decode(errors="replace"),
        "logprob": _plain(logprob),
        "bytes": list(data),
    }


def _top_dicts(
    top: Sequence[Sequence[TopLogprob]], tokenizer: Tokenizer
) -> list[dict[str, float | None] | None]:
    """None where nothing was predicted: at the first token of a prompt.

    Two ids can show the same text: the better one is kept, as they come best first.
    """
    dicts: list[dict[str, float | None] | None] = []
    for ranked in top:
        if not ranked:
            dicts.append(None)
            continue
        by_text: dict[str, float | None] = {}
        for t in ranked:
            by_text.setdefault(token_text(tokenizer, t.token_id), _plain(t.logprob))
        dicts.append(by_text)
    return dicts


def _plain(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else LEAST
