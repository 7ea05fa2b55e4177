"""One engine in a process of its own, as the body of a Ray actor.

    submit(key, request), abort(key)      what is made comes out of `news`
    news()                                batches of what is new, as long as the actor lives
    call(ability, ...), restore_base(version), recent(), facts()

A batch holds everything since the one before: one message for all requests of a step. Failures
of ours travel as values (`Failed`), so that they arrive as the exceptions they were.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from evolute.engine.allocator import keep_little
from evolute.engine.config import EngineConfig
from evolute.engine.engine import Engine, EngineStats, Heartbeat
from evolute.engine.history import Visit
from evolute.models import load_model
from evolute.types import Delta, EvoluteError, GenerateRequest

BEAT_S = 1.0
KEPT_ABORTS = 1024


@dataclass(frozen=True, slots=True)
class Failed:
    """An exception on its way."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Beat:
    """How the engine is, once in BEAT_S; `stats` may be of a beat before."""

    heartbeat: Heartbeat
    stats: EngineStats | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of this replica from its start."""

    pid: int
    node: str
    config: EngineConfig  # nothing left on `auto`
    num_pages: int


News = tuple[int, Delta | Failed] | Beat  # the request's key, and what is new of it


class ReplicaActor:
    """All methods run on the actor's event loop; what blocks runs in threads."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        keep_little()
        self._model, self._engine = model, Engine(model, config)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._aborted: dict[int, None] = {}  # before they came
        self._fresh: list[News] = []
        self._is_fresh = asyncio.Event()
        self._stats: EngineStats | None = None

    async def facts(self) -> Facts:
        config, stats = self._engine.config, await asyncio.to_thread(self._engine.stats)
        return Facts(os.getpid(), os.uname().nodename, config, stats.num_pages)

    async def submit(self, key: int, request: GenerateRequest) -> None:
        """Begin a request. Keys are used once."""
        if key in self._aborted:
            del self._aborted[key]
            return
        self._tasks[key] = asyncio.create_task(self._serve(key, request))

    async def abort(self, key: int) -> None:
        """Nobody wants it any more; it makes no more news."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            return
        self._aborted[key] = None  # calls may overtake one another
        while len(self._aborted) > KEPT_ABORTS:
            del self._aborted[next(iter(self._aborted))]

    async def news(self) -> AsyncIterator[list[News]]:
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                await self._is_fresh.wait()
                await asyncio.sleep(0)  # the other requests of the same step
                batch, self._fresh = self._fresh, []
                self._is_fresh.clear()
                yield batch
        finally:
            beating.cancel()

    async def call(self, ability: str, *args: Any, **settings: Any) -> Any:
        """A plain method of the engine."""
        try:
            return await asyncio.to_thread(getattr(self._engine, ability), *args, **settings)
        except EvoluteError as error:
            return Failed(error)

    async def restore_base(self, version: int) -> Any:
        """The weights of the model as it was at the start."""

        def restore() -> str:
            return self._engine.load_weights(load_model(self._model).weights, version=version)

        try:
            return await asyncio.to_thread(restore)
        except EvoluteError as error:
            return Failed(error)

    async def recent(self) -> tuple[float, list[Visit]]:
        """With the time on the clock that the visits are told by."""
        visits = await asyncio.to_thread(self._engine.recent)
        return time.monotonic(), visits

    # -- internals -------------------------------------------------------------

    async def _serve(self, key: int, request: GenerateRequest) -> None:
        try:
            async for delta in self._engine.stream(request):
                self._tell((key, delta))
        except Exception as error:
            known = error if isinstance(error, EvoluteError) else RuntimeError(repr(error))
            self._tell((key, Failed(known)))
        finally:
            self._tasks.pop(key, None)

    async def _beat(self) -> None:
        asking: asyncio.Task[EngineStats] | None = None
        while True:
            if asking is None or asking.done():
                if asking is not None and asking.exception() is None:
                    self._stats = asking.result()
                asking = asyncio.create_task(asyncio.to_thread(self._engine.stats))
                await asyncio.wait({asking}, timeout=BEAT_S / 10)
            self._tell(Beat(self._engine.heartbeat, self._stats))
            await asyncio.sleep(BEAT_S)

    def _tell(self, one: News) -> None:
        self._fresh.append(one)
        self._is_fresh.set()
