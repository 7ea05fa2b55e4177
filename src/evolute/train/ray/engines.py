"""The engines of a run: replicas behind their router, each of which proves the weights it holds.

    RolloutEngines(model, config, replicas, cluster, options, patience_s)       a `LiveEngine`
    .install(name, kept, canary, timeout_s) -> {replica: Held}     by Ray's object store, to all
    .living() -> {replica: actor}, .have_died(actors), .steady()   for the other ways
    .later(fetch)                             where engines that are started anew get weights from

A request whose engine dies goes to another one; while none lives it waits for the next. An engine
that is started anew takes no request before it holds what was published last.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evolute.engine import EngineConfig
from evolute.engine.replicas import ReplicaConfig, ReplicatedEngine
from evolute.engine.replicas.actor import Failed, ReplicaActor
from evolute.engine.replicas.agreement import Call, Kept
from evolute.engine.replicas.cluster import Cluster
from evolute.engine.replicas.replica import Replica
from evolute.train.ray.channel import Ends, Spec
from evolute.train.sync import EngineHolder, answer
from evolute.types import EvoluteError, GenerateRequest, OutOfCapacity, Output, TrainingError

POLL_S = 0.2
SETTLE_S = 5.0  # within which a death is noticed


@dataclass(frozen=True, slots=True)
class Held:
    """What an engine says of its weights."""

    fingerprint: str
    logprobs: list[float]  # of the canary
    precision: str


class RolloutActor(ReplicaActor):
    """An engine that also attends to the ways of weights."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        super().__init__(model, config)
        self._ends = Ends()

    async def attend(self, message: bytes, spec: Spec) -> bytes:
        """One publication by a way: the answer of `sync.remote`."""
        return await asyncio.to_thread(self._attend, message, spec)

    async def held(self, name: str | None, digest: str, canary: Sequence[int]) -> Held | Failed:
        """`digest` is what loading said; an adapter's is asked for again."""
        return await asyncio.to_thread(self._held, name, digest, canary)

    # -- internals -------------------------------------------------------------

    def _attend(self, message: bytes, spec: Spec) -> bytes:
        asked = json.loads(message)
        holder = EngineHolder(self._engine, spec.name)
        return answer(asked, self._ends.receiver(spec), holder, spec.timeout_s)

    def _held(self, name: str | None, digest: str, canary: Sequence[int]) -> Held | Failed:
        try:
            holder = EngineHolder(self._engine, name)
            now = self._engine.fingerprint(name) if name is not None else digest
            return Held(now, holder.logprobs(canary), holder.precision)
        except EvoluteError as error:
            return Failed(error)


class RolloutEngines(ReplicatedEngine):
    """`options(index)` are Ray's for the actor of a replica."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        replicas: ReplicaConfig,
        cluster: Cluster,
        options: Callable[[int], dict[str, Any]],
        patience_s: float,
    ) -> None:
        self._options, self._patience_s = options, patience_s
        self._fetch: Callable[[], tuple[str | None, Kept]] | None = None
        super().__init__(model, config, replicas, cluster)

    # -- requests ------------------------------------------------------------------

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        """As of one engine; while no engine lives it waits for one, `patience_s` at most."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._patience_s
        while True:
            try:
                return await super().agenerate(request)
            except OutOfCapacity:
                if self.is_alive or loop.time() >= until_s:
                    raise
            while not self.is_alive and loop.time() < until_s:
                await asyncio.sleep(POLL_S)

    # -- weights -------------------------------------------------------------------

    @contextmanager
    def steady(self) -> Iterator[None]:
        """The engines that live are the same inside, but for those that die."""
        with self._admin:
            yield

    def living(self) -> dict[int, Any]:
        """Actors by replica."""
        return {replica.index: replica.actor for replica in self._replicas if replica.is_alive}

    def nodes(self) -> set[str]:
        """Names of the machines that they run on."""
        return {replica.facts.node for replica in self._replicas if replica.facts is not None}

    def have_died(self, actors: dict[int, Any]) -> list[int]:
        """Those of `actors` that live no more."""
        now = self.living()
        return [index for index, actor in actors.items() if now.get(index) is not actor]

    def later(self, fetch: Callable[[], tuple[str | None, Kept]]) -> None:
        """Where engines that are started anew get the weights from."""
        self._fetch = fetch

    def install(
        self, name: str | None, kept: Kept, canary: Sequence[int], timeout_s: float
    ) -> dict[int, Held]:
        """Load on every engine, and what each holds then. Who dies meanwhile has no entry. Raises
        TrainingError that names an engine which could not, or is late."""
        with self._admin:
            living = self._living()
            call = self._load_call(name, kept)
            digests = self._agreed.ask(living, call, timeout_s)
            self._note(name, kept)
            self._check_late({r.index: r.actor for r in living if r not in digests}, timeout_s)
            _check_told(digests, f"load weights {kept.version}")
            asked = {one: one.actor.held.remote(name, _digest(d), list(canary))
                     for one, d in digests.items()}  # fmt: skip
            found = self._collect(asked, timeout_s)
            _check_told(found, f"prove weights {kept.version}")
        return {replica.index: held for replica, held in found.items()}

    def admit(self, replica: Replica) -> None:
        """With what was published last, wherever that is kept."""
        with self._admin:
            if self._fetch is not None:
                self._note(*self._fetch())
            super().admit(replica)

    # -- internals -----------------------------------------------------------------

    def _start_actor(self, index: int, threads: int) -> Any:
        args = (self.model_path, self._agreed.config)
        return self._cluster.start_actor(RolloutActor, args, threads, **self._options(index))

    def _load_call(self, name: str | None, kept: Kept) -> Call:
        if name is None:
            return self._agreed.base_call(kept)
        return self._agreed.adapter_call(name, kept)

    def _note(self, name: str | None, kept: Kept) -> None:
        """This is what all have, and what comes later gets."""
        if name is None:
            self._agreed.base = kept
        else:
            self._agreed.adapters[name] = kept
        with self._flights.lock:
            if name is None:
                self._router.flushed()
            else:
                self._router.forget(name)

    def _check_late(self, silent: dict[int, Any], timeout_s: float) -> None:
        """Who said nothing has died, which is soon known, or is late. Raises TrainingError."""
        until_s = time.monotonic() + SETTLE_S
        while len(self.have_died(silent)) < len(silent):
            if time.monotonic() >= until_s:
                late = min(silent.keys() - self.have_died(silent))
                raise _late(late, timeout_s)
            time.sleep(POLL_S)

    def _collect(self, asked: dict[Replica, Any], timeout_s: float) -> dict[Replica, Any]:
        ray, found = self._cluster.ray, {}
        for replica, ref in asked.items():
            try:
                found[replica] = ray.get(ref, timeout=timeout_s)
            except ray.exceptions.RayActorError:
                continue
            except ray.exceptions.GetTimeoutError:
                raise _late(replica.index, timeout_s) from None
        return found


# -- internals ---------------------------------------------------------------


def _check_told(found: dict[Replica, Any], what: str) -> None:
    for replica, value in found.items():
        if isinstance(value, Failed):
            text = f"engine {replica.index} could not {what}: {value.error}"
            raise TrainingError(text) from value.error
    if not found:
        raise TrainingError(f"no engine lived to {what}; run the same command again to resume.")


def _digest(loaded: Any) -> str:
    """What a load said: the digest of the base, or of the adapter."""
    digest: str = loaded if isinstance(loaded, str) else loaded.fingerprint
    return digest


def _late(index: int, timeout_s: float) -> TrainingError:
    return TrainingError(f"engine {index} did not prove its weights within {timeout_s:g} s.")
