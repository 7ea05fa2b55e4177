"""The bytes that each token stands for, whatever the tokenizer's way of writing them.

token_bytes(tokenizer) -> bytes by id
byte_alphabet()        -> character by byte, of byte-level BPE

Two ways are in use. Byte-level BPE (GPT-2, Llama 3, Qwen) writes each byte as a printable
character. SentencePiece (Llama 2, Mistral, Gemma) writes text, with U+2581 for a space and
<0x0A> for a byte that is no character of its own. Which one it is, the decoder says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import Tokenizer

from evolute.types import ModelError

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "\u2581"


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Raises ModelError for a tokenizer that writes tokens in neither way."""
    parts = set(_kinds(tokenizer.decoder)) or set(_kinds(tokenizer.pre_tokenizer))
    if "ByteLevel" in parts:
        read: Callable[[str], bytes] = _ByteLevel()
    elif parts <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        read = _sentence_piece
    else:
        raise ModelError(
            f"the tokenizer writes its tokens by {', '.join(sorted(parts))}; byte-level BPE and "
            "SentencePiece are supported. Use another model."
        )
    added = {id: str(t).encode() for id, t in tokenizer.get_added_tokens_decoder().items()}
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return {id: read(text) for text, id in vocab.items()} | added


def byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level BPE (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    others = (byte for byte in range(256) if byte not in table)
    table |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return table


# -- internals ---------------------------------------------------------------


class _ByteLevel:
    def __init__(self) -> None:
        self.byte = {char: byte for byte, char in byte_alphabet().items()}

    def __call__(self, text: str) -> bytes:
        if any(char not in self.byte for char in text):
            return text.encode()  # a token that was added by hand
        return bytes(self.byte[char] for char in text)


def _sentence_piece(text: str) -> bytes:
    byte = BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()


def _kinds(part: Any) -> Iterator[str]:
    """Names of the steps of a decoder or pre-tokenizer, sequences taken apart."""
    if part is None:
        return
    waiting = [json.loads(part.__getstate__())]
    while waiting:
        step = waiting.pop()
        inner = step.get("decoders") or step.get("pretokenizers")
        waiting += inner or []
        if not inner:
            yield str(step["type"])
