"""One process that plays episodes: the body of its actor. Worlds live here, engines do not.

    .ready()                                          facts, once the task is built
    .play(number, problem, group, index, seed)        -> Rollout; several at once
    .stop(number)                                     nobody wants it any more
    .news()                                           requests for tokens, in batches
    .answer(key, outputs)                             what the engines made of one

What its players ask of a model goes out by `news` and comes back by `answer`: the router is the
driver's, so that all workers' requests are balanced together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from evolute.engine.allocator import keep_little
from evolute.engine.replicas.actor import Failed
from evolute.envs import EpisodePlayer
from evolute.envs.tools import ToolTask
from evolute.models import load_model
from evolute.train.control.playing import agent_player, sampling_of, task_of
from evolute.train.settings import TrainConfig
from evolute.types import (
    BackendError,
    Delta,
    EvoluteError,
    GenerateRequest,
    Output,
    Player,
    Problem,
    Rollout,
    Tokenizer,
)

Ask = tuple[int, GenerateRequest | None]  # a key, and a request; None: given up


class Relay:
    """A `Backend` whose engines are elsewhere."""

    def __init__(self, tokenizer: Tokenizer, model_name: str) -> None:
        self.tokenizer, self.model_name = tokenizer, model_name
        self._waiting: dict[int, asyncio.Future[list[Output]]] = {}
        self._fresh: list[Ask] = []
        self._is_fresh = asyncio.Event()
        self._next = 0

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        self._next += 1
        key = self._next
        answer: asyncio.Future[list[Output]] = asyncio.get_running_loop().create_future()
        self._waiting[key] = answer
        self._tell((key, request))
        try:
            return await answer
        finally:
            if self._waiting.pop(key, None) is not None and not answer.done():
                self._tell((key, None))

    def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        raise BackendError("a worker's engines are elsewhere and tell whole outputs only.")

    def answered(self, key: int, found: Sequence[Output] | Failed) -> None:
        """Of no effect when nobody waits any more."""
        waiting = self._waiting.pop(key, None)
        if waiting is None or waiting.done():
            return
        if isinstance(found, Failed):
            waiting.set_exception(found.error)
        else:
            waiting.set_result(list(found))

    async def news(self) -> AsyncIterator[list[Ask]]:
        """Everything that is new since the last batch."""
        while True:
            await self._is_fresh.wait()
            await asyncio.sleep(0)  # the other episodes of the same turn
            batch, self._fresh = self._fresh, []
            self._is_fresh.clear()
            yield batch

    def _tell(self, ask: Ask) -> None:
        self._fresh.append(ask)
        self._is_fresh.set()


class EpisodeWorker:
    """All methods run on the actor's event loop; worlds run in threads, as everywhere."""

    def __init__(self, config: TrainConfig, adapter: str | None, places: int) -> None:
        keep_little()
        model = load_model(config.model)  # for its tokenizer
        self._relay = Relay(model.tokenizer, model.name)
        self._player = _player(config, self._relay, adapter, places)
        self._plays: dict[int, asyncio.Task[Rollout]] = {}

    async def ready(self) -> int:
        return os.getpid()

    async def play(
        self, number: int, problem: Problem, group: int, index: int, seed: int
    ) -> Rollout | Failed | None:
        """None: it was stopped."""
        work = self._player.play(problem, group=group, index=index, seed=seed)
        task = self._plays[number] = asyncio.ensure_future(work)
        try:
            return await task
        except asyncio.CancelledError:
            return None
        except EvoluteError as error:
            return Failed(error)
        finally:
            del self._plays[number]

    async def stop(self, number: int) -> None:
        task = self._plays.get(number)
        if task is not None:
            task.cancel()

    async def news(self) -> AsyncIterator[list[Ask]]:
        async for batch in self._relay.news():
            yield batch

    async def answer(self, key: int, found: Any) -> None:
        self._relay.answered(key, found)


# -- internals ---------------------------------------------------------------


def _player(config: TrainConfig, relay: Relay, adapter: str | None, places: int) -> Player:
    task = task_of(config)
    if isinstance(task, ToolTask):
        return agent_player(config, task, relay, adapter, places)
    return EpisodePlayer(task, relay, sampling_of(config, task), adapter)
