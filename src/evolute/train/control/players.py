"""Who plays the episodes of a task on an engine, and how many requests may it have at once?

    EpisodePlayer(task, backend, sampling, adapter)      a `types.Player`
    Places(backend, limit)      a `Backend` that sends `limit` requests at a time; others wait here

An episode that waits for its world holds no place in the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from evolute.envs import run_episode
from evolute.types import (
    Backend,
    Delta,
    GenerateRequest,
    Output,
    Problem,
    Rollout,
    SamplingParams,
    Task,
    Tokenizer,
)


@dataclass(frozen=True, slots=True)
class EpisodePlayer:
    """One episode of the task, token in, token out."""

    task: Task
    backend: Backend
    sampling: SamplingParams
    adapter: str | None = None

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        return await run_episode(
            self.task,
            problem,
            self.backend,
            self.sampling,
            adapter=self.adapter,
            group=group,
            index=index,
            seed=seed,
        )


class Places:
    """At most `limit` requests of ours at a time, so that others find room too. Belongs to the
    event loop that first waits on it."""

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._gate = asyncio.Semaphore(limit)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._backend.tokenizer

    @property
    def model_name(self) -> str:
        return self._backend.model_name

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        async with self._gate:
            return await self._backend.agenerate(request)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        async with self._gate:
            async for delta in self._backend.stream(request):
                yield delta
