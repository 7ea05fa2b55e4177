"""A tokenizer whose merges differ when decoded text is tokenised again: `ab` has a token, and so
have `a` and `b`; a model may sample the latter."""

from collections.abc import Sequence

from evolute.testing import ByteTokenizer
from evolute.types import Message

MERGES = (b"ab", b"abab", b"<tool_call>", b"aa")


class ToyBpe(ByteTokenizer):
    """Greedy longest match over bytes and MERGES; ids 259 on are the merges."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = 259 + len(MERGES)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self._encoded(text.encode())

    def _encoded(self, rest: bytes) -> list[int]:
        ids = []
        while rest:
            best = max((m for m in MERGES if rest.startswith(m)), key=len, default=rest[:1])
            ids.append(259 + MERGES.index(best) if best in MERGES else best[0])
            rest = rest[len(best) :]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        return MERGES[token_id - 259] if token_id >= 259 else super().token_bytes(token_id)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        kept = (id for id in token_ids if not (256 <= id < 259 and skip_special_tokens))
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **_
    ) -> list[int]:
        ids: list[int] = []
        for message in messages:
            text = f"{message['role']}\n{message['content']}"
            ids += [257, *self._encoded(text.encode()), 258]
        return [*ids, 257, *self._encoded(b"assistant\n")] if add_generation_prompt else ids
