"""A tokenizer whose tokens are bytes: no files, no training, exact both ways.

Ids 0-255 are the bytes; 256 ends a sequence, 257 and 258 open and close a chat turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolute.types import Message

EOS, TURN, TURN_END = 256, 257, 258
SPECIAL_TEXT = {EOS: "<eos>", TURN: "<turn>", TURN_END: "<end>"}


class ByteTokenizer:
    """Implements `evolute.types.Tokenizer`; `decode` replaces what is not UTF-8 by U+FFFD."""

    def __init__(self) -> None:
        self.vocab_size = 259
        self.eos_token_id = EOS
        self.stop_token_ids = frozenset({EOS, TURN_END})

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        kept = (id for id in token_ids if id < 256 or not skip_special_tokens)
        return b"".join(self.token_bytes(id) for id in kept).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < 256:
            return bytes([token_id])
        return SPECIAL_TEXT.get(token_id, "").encode()

    def chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """<turn>role\\ncontent<end> per message, then an open assistant turn."""
        token_ids: list[int] = []
        for message in messages:
            token_ids += [TURN, *f"{message['role']}\n{message['content']}".encode(), TURN_END]
        if continue_final_message:
            return token_ids[:-1]
        if add_generation_prompt:
            token_ids += [TURN, *b"assistant\n"]
        return token_ids
