"""Episodes played in other processes, and played again when one of these dies. A `Player`.

    Workers(members, requeues, patience_s)       the one with the fewest episodes gets the next
    RayWorker(index, start, cluster, engines)    one actor as seen from here; a death starts another

A death costs no episode: it is played from its beginning by another worker with the same seed, and
its rollout's metadata say whose deaths it saw (`requeued`). After `requeues` deaths it has failed,
class "environment", and counts as any failure does.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from evolute.engine.replicas.actor import Failed
from evolute.engine.replicas.cluster import Cluster
from evolute.train.control.episodes import failed
from evolute.train.ray.worker import Ask
from evolute.types import Backend, BackendError, EvoluteError, Problem, Rollout, WorkerLost

logger = logging.getLogger(__name__)
POLL_S = 0.2


@runtime_checkable
class Member(Protocol):
    """One worker."""

    @property
    def index(self) -> int: ...
    @property
    def is_alive(self) -> bool: ...
    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        """Raises WorkerLost when it dies meanwhile."""
        ...


class Workers:
    """`places` is how many episodes may run at once; 0: the players queue by themselves."""

    def __init__(
        self, members: Sequence[Member], requeues: int, patience_s: float, places: int = 0
    ) -> None:
        self.members, self.places = list(members), places
        self._requeues, self._patience_s = requeues, patience_s
        self.busy = dict.fromkeys((member.index for member in members), 0)
        self._dice = random.Random(0)
        self.num_requeued = 0

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        """One rollout, whatever dies."""
        deaths: list[str] = []
        while len(deaths) <= self._requeues:
            try:
                rollout = await self._once(problem, group, index, seed)
            except WorkerLost as error:
                deaths.append(str(error))
                self.num_requeued += 1
                logger.warning("episode %s/%d is played again: %s", problem.id, index, error)
                continue
            if deaths:
                rollout = replace(rollout, metadata={**rollout.metadata, "requeued": deaths})
            return rollout
        return failed(problem, group, index, "WorkerLost", "; ".join(deaths))

    # -- internals ---------------------------------------------------------------

    async def _once(self, problem: Problem, group: int, index: int, seed: int) -> Rollout:
        member = await self._least()
        self.busy[member.index] += 1
        try:
            return await member.play(problem, group=group, index=index, seed=seed)
        finally:
            self.busy[member.index] -= 1

    async def _least(self) -> Member:
        """Among equals at random. Waits while none lives, `patience_s` at most."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._patience_s
        while True:
            living = [member for member in self.members if member.is_alive]
            if living:
                fewest = min(self.busy[member.index] for member in living)
                return self._dice.choice([m for m in living if self.busy[m.index] == fewest])
            if loop.time() >= until_s:
                raise BackendError(f"no rollout worker lived for {self._patience_s:g} s.")
            await asyncio.sleep(POLL_S)


class RayWorker:
    """The worker number `index`: one actor after another."""

    def __init__(
        self,
        index: int,
        start: Callable[[], Any],
        cluster: Cluster,
        engines: Backend,
        patience_s: float,
    ) -> None:
        self.index, self.restarts, self.pid = index, 0, 0
        self._start, self._cluster, self._engines = start, cluster, engines
        self._patience_s = patience_s
        self._numbers = itertools.count()
        self._reviving: asyncio.Task[None] | None = None
        self._listening: tuple[Any, asyncio.Task[None]] | None = None
        self._actor = start()
        self.is_alive = True

    def wait(self) -> None:
        """Until it is there. Raises what Ray says when it is not."""
        ready = self._actor.ready.remote()
        self.pid = self._cluster.ray.get(ready, timeout=self._patience_s)

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        actor, number = self._actor, next(self._numbers)
        if self._listening is None or self._listening[0] is not actor:
            self._listening = (actor, asyncio.create_task(self._listen(actor)))
        answer = actor.play.remote(number, problem, group, index, seed)
        try:
            found = await answer
        except asyncio.CancelledError:
            actor.stop.remote(number)
            raise
        except self._cluster.ray.exceptions.RayActorError as error:
            self._lost(actor)
            raise WorkerLost(f"rollout worker {self.index} died") from error
        if isinstance(found, Failed):
            raise found.error
        if found is None:
            raise WorkerLost(f"rollout worker {self.index} dropped the episode")
        rollout: Rollout = found
        return rollout

    def close(self) -> None:
        self.is_alive = False
        self._cluster.kill(self._actor)

    # -- internals ---------------------------------------------------------------

    async def _listen(self, actor: Any) -> None:
        """Serve what its players ask, until it dies."""
        serving: dict[int, asyncio.Task[None]] = {}
        try:
            async for ref in self._cluster.follow(actor):
                for ask in await ref:
                    self._heard(actor, ask, serving)
        except self._cluster.ray.exceptions.RayActorError:
            self._lost(actor)
        finally:
            for task in list(serving.values()):
                task.cancel()

    def _heard(self, actor: Any, ask: Ask, serving: dict[int, asyncio.Task[None]]) -> None:
        key, request = ask
        if request is not None:
            task = serving[key] = asyncio.create_task(self._serve(actor, key, request))
            task.add_done_callback(lambda _: serving.pop(key, None))
        elif key in serving:
            serving[key].cancel()

    async def _serve(self, actor: Any, key: int, request: Any) -> None:
        try:
            found: Any = await self._engines.agenerate(request)
        except EvoluteError as error:
            found = Failed(error)
        actor.answer.remote(key, found)

    def _lost(self, actor: Any) -> None:
        """Start another one; it is alive when it says so."""
        if actor is not self._actor or not self.is_alive:
            return
        self.is_alive = False
        self.restarts += 1
        logger.error("rollout worker %d is lost and started anew", self.index)
        self._actor = self._start()
        self._reviving = asyncio.create_task(self._revive(self._actor))

    async def _revive(self, actor: Any) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                self.pid = await actor.ready.remote()
        except (TimeoutError, self._cluster.ray.exceptions.RayError) as error:
            logger.error("rollout worker %d does not come back: %s", self.index, error)
            return
        self.is_alive = actor is self._actor
