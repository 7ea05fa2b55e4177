"""The seam between whoever needs completions and whatever makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from evolute.types.request import Delta, GenerateRequest, Message, Output


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, with the model's own chat template."""

    vocab_size: int
    eos_token_id: int
    stop_token_ids: frozenset[int]  # every id that ends a turn, eos included

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]: ...


@runtime_checkable
class Backend(Protocol):
    """Anything that turns requests into completions: engine, endpoint, recorder, double.

    `generate` returns one `Output` per sample, ordered by index. Cancelling either coroutine
    aborts the request. A request that cannot be served raises `RequestError`.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def model_name(self) -> str: ...
    async def agenerate(self, request: GenerateRequest) -> list[Output]: ...
    def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]: ...
