"""How many requests of a training run may an engine have at once?

    Places(backend, limit)      a `Backend` that sends `limit` requests at a time; others wait here

An episode that waits for its world holds no place in the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from evolute.types import Backend, Delta, GenerateRequest, Output, Tokenizer


class Places:
    """At most `limit` requests of ours at a time, so that others find room too. Belongs to the
    event loop that first waits on it."""

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._gate = asyncio.Semaphore(limit)
        self.num_asked = 0  # requests that wait here or are in the engine

    @property
    def tokenizer(self) -> Tokenizer:
        return self._backend.tokenizer

    @property
    def model_name(self) -> str:
        return self._backend.model_name

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        self.num_asked += 1
        try:
            async with self._gate:
                return await self._backend.agenerate(request)
        finally:
            self.num_asked -= 1

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        self.num_asked += 1
        try:
            async with self._gate:
                async for delta in self._backend.stream(request):
                    yield delta
        finally:
            self.num_asked -= 1
