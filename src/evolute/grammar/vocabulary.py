"""The tokenizer as llguidance wants it: every id's bytes, and which ids may end an output.

    check_ends(tokenizer, eos_token_ids)
    vocabulary(tokenizer, eos_token_ids) -> LLTokenizer

A tokenizer that carries a Hugging Face `tokenizers` object is handed over whole (forced text
is then tokenised outside Python); any other is described by `token_bytes` of each id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from evolute.types import ConfigError, Tokenizer


def check_ends(tokenizer: Tokenizer, eos_token_ids: Iterable[int]) -> None:
    """Raises ConfigError when an end-of-sequence id is missing or outside the vocabulary."""
    eos = sorted(set(eos_token_ids))
    if not eos or eos[0] < 0 or eos[-1] >= tokenizer.vocab_size:
        raise ConfigError(
            f"end-of-sequence ids {eos} for a vocabulary of {tokenizer.vocab_size}: grammars need "
            "at least one id inside it to end an output. Fix the tokenizer's stop_token_ids."
        )


def vocabulary(tokenizer: Tokenizer, eos_token_ids: Iterable[int]) -> LLTokenizer:
    """Takes half a second for 50,000 ids. The ends are those that `check_ends` passes."""
    eos = sorted(set(eos_token_ids))
    fast = getattr(tokenizer, "tokenizers", None)
    if hasattr(fast, "to_str"):
        return LLTokenizer(_plain_json(fast), n_vocab=tokenizer.vocab_size, eos_token=eos)
    described = TokenizerWrapper(_Described(tokenizer, eos))
    return LLTokenizer(described, n_vocab=tokenizer.vocab_size, eos_token=eos)


class _Described:
    """The attributes that llguidance's wrapper reads, from a `types.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, eos: Sequence[int]) -> None:
        self.eos_token_id = eos[0]
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        # a control token shows as nothing when special tokens are skipped, yet has a name
        self.special_token_ids = sorted(
            {id for id, text in enumerate(self.tokens) if text and not tokenizer.decode([id])}
            | set(eos)
        )
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode())


def _plain_json(fast: Any) -> str:
    """The tokenizer's JSON without padding and truncation, leaving the original as it is."""
    copy = type(fast).from_str(fast.to_str())
    copy.no_padding()
    copy.no_truncation()
    return str(copy.to_str())
