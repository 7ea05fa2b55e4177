"""Byte-level BPE out of GGUF metadata.

read_tokenizer(fields) -> tokenizers.Tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from evolute.types import ModelError

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens, as llama.cpp numbers them


def read_tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    """Raises ModelError for another kind of tokenizer, or a damaged one."""
    kind = fields.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f"the file's tokenizer is {kind!r}; only byte-level BPE ('gpt2') is read. "
            "Use the safetensors directory of the model instead."
        )
    try:
        return _byte_level_bpe(fields, fields["tokenizer.ggml.tokens"])
    except ModelError:
        raise
    except Exception as error:  # the tokenizers package raises plain exceptions
        raise ModelError(
            f"the file's tokenizer is damaged ({type(error).__name__}: {error}); fetch the file "
            "again."
        ) from error


# -- internals ---------------------------------------------------------------


def _byte_level_bpe(fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(str(fields.get("tokenizer.ggml.pre", "default")))
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", [])
    control = [tokens[id] for id, kind in enumerate(kinds) if kind == CONTROL]
    own = [tokens[id] for id, kind in enumerate(kinds) if kind == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in own])
    return tokenizer


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([digits, whole])
    splits = {"llama-bpe": LLAMA3_SPLIT, "qwen2": QWEN2_SPLIT}
    if name in splits:
        split = pre_tokenizers.Split(Regex(splits[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, byte_level])
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raise ModelError(
        f"the file's pre-tokenizer is {name!r}; supported in GGUF are smollm, llama-bpe, qwen2 "
        "and gpt-2. Use the safetensors directory of the model instead."
    )
