"""Which weights does the engine have, and are they those that were saved?

    Samplers(engine, base, checkpoints, limit)
    await samplers.hold(path) -> adapter's name      loaded and proved; until `release(name)`
    await samplers.publish(path, lora)               new weights under a name that may be in use

Loaded on demand; beyond `limit` the one that was not used for longest goes, unless it is in use.
The proof is the trainer's: equal digests, and a canary prompt scores alike on both sides.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict

from evolute.engine import Engine
from evolute.models import LoraWeights
from evolute.train.policy import Policy
from evolute.train.sync import publish
from evolute.train.tinker.checkpoints import Checkpoints, TinkerPath
from evolute.types import RequestError

CANARY = "The quick brown fox jumps over the lazy dog."


class Samplers:
    """Used from one event loop."""

    def __init__(self, engine: Engine, base: Policy, checkpoints: Checkpoints, limit: int) -> None:
        self._engine, self._base, self._checkpoints = engine, base, checkpoints
        self._limit = limit
        self._canary = tuple(engine.tokenizer.encode(CANARY))
        self._loaded: OrderedDict[str, int] = OrderedDict()  # name -> version, oldest use first
        self._users: Counter[str] = Counter()
        self._lock = asyncio.Lock()

    async def hold(self, path: str | None, parsed: TinkerPath | None) -> str | None:
        """The adapter of a path, for one request; None for the base. Raises CheckpointError."""
        if path is None or parsed is None:
            return None
        async with self._lock:
            if path not in self._loaded:
                lora, _ = await asyncio.to_thread(self._checkpoints.read, parsed)
                await self._load(path, lora)
            self._loaded.move_to_end(path)
            self._users[path] += 1
        return path

    def release(self, path: str | None) -> None:
        if path is not None:
            self._users[path] -= 1

    async def publish(self, path: str, lora: LoraWeights) -> None:
        """Requests in flight under this name go on with the new weights."""
        async with self._lock:
            await self._load(path, lora)

    async def forget(self, path: str) -> None:
        """Out of the engine, if nobody uses it."""
        async with self._lock:
            if path in self._loaded and not self._users[path]:
                await self._unload(path)

    # -- internals ---------------------------------------------------------------

    async def _load(self, path: str, lora: LoraWeights) -> None:
        await self._make_room(path)
        version = self._loaded.get(path, 0) + 1
        policy = self._base.with_adapter(lora)
        await publish(self._engine, path, policy, version, self._canary)
        self._loaded[path] = version
        self._loaded.move_to_end(path)

    async def _make_room(self, path: str) -> None:
        for name in list(self._loaded):
            if len(self._loaded) < self._limit or path in self._loaded:
                return
            if not self._users[name]:
                await self._unload(name)

    async def _unload(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._engine.unload_adapter, name)
        except RequestError:  # somebody reached it by another way; it goes next time
            return
        del self._loaded[name]
        self._users.pop(name, None)
