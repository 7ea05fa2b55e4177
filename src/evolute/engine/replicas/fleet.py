"""Several engines that look like one: a `Backend`, and what a server asks of an engine besides.

    ReplicatedEngine(model, config, ReplicaConfig(count=2)) -> as `Engine`, in other processes

A request is routed (`router.py`), and in flight (`flights.py`) on an actor (`actor.py`), which this
process watches (`replica.py`). Administration goes to all replicas, and is undone where one of them
refuses (`agreement.py`). Settings such as `memory_mb` and `max_waiting` are of each replica.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from evolute.engine.adapters import AdapterInfo
from evolute.engine.config import EngineConfig, resolve
from evolute.engine.counts import Counts
from evolute.engine.engine import Heartbeat, Prompts, num_cores, token_lists
from evolute.engine.history import Explanation, Visit
from evolute.engine.loop import closed
from evolute.engine.replicas import metrics, totals
from evolute.engine.replicas.actor import Failed, News, ReplicaActor
from evolute.engine.replicas.agreement import Agreement, Call, Kept, no_replica
from evolute.engine.replicas.cluster import Cluster
from evolute.engine.replicas.config import ReplicaConfig
from evolute.engine.replicas.flights import Flight, Flights, Tell
from evolute.engine.replicas.replica import START_S, Replica
from evolute.engine.replicas.router import Router, make_policy
from evolute.engine.replicas.totals import FleetStats, ReplicaStats
from evolute.engine.scheduling.policies.service import COSTS
from evolute.engine.snapshot import MemoryMap, Snapshot
from evolute.models import LoraWeights, ModelWeights, load_model, load_peft
from evolute.types import (
    BackendError,
    ConfigError,
    Delta,
    GenerateRequest,
    Output,
    RequestError,
    SamplingParams,
)
from evolute.types.settings import from_mapping

logger = logging.getLogger(__name__)
LOOK_S = 10.0  # for figures: a replica that is slower is left out


class ReplicatedEngine:
    """Use it as a context manager, or call `close`. Raises ConfigError when it cannot start."""

    def __init__(
        self,
        model: str,
        config: EngineConfig | None = None,
        replicas: ReplicaConfig = ReplicaConfig(),  # noqa: B008
        cluster: Cluster | None = None,
        **settings: Any,
    ) -> None:
        if config is None:
            config = from_mapping(EngineConfig, settings, "engine.")
        elif settings:
            raise TypeError("give either config or single settings, not both")
        loaded = load_model(model)  # for its tokenizer and shapes; the weights are let go
        self.tokenizer, self.model_name, self.model_path = loaded.tokenizer, loaded.name, model
        self.model_config, self.replica_config = loaded.config, replicas
        threads = config.num_threads or max(num_cores() // replicas.count, 1)
        config = dataclasses.replace(config, num_threads=threads)
        resolve(config, loaded.config, cores=threads, has_native=True)  # errors come early
        del loaded
        self._admin, self._retired, self._closed = threading.RLock(), Counts(), False
        self._is_cluster_ours = cluster is None
        self._cluster = cluster or Cluster(replicas.address, threads * replicas.count)
        self._agreed = Agreement(self._cluster, config)
        self._router = Router(make_policy(replicas), config.page_size, COSTS[config.cost])
        self._flights = Flights(self._router, lambda index: self._replicas[index].actor)
        self._replicas = [
            Replica(index, self._cluster, partial(self._start_actor, index, threads), self)
            for index in range(replicas.count)
        ]
        self._begin()

    # -- how it is ---------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether any replica lives."""
        return any(replica.heartbeat.is_alive for replica in self._replicas)

    @property
    def heartbeat(self) -> Heartbeat:
        """Told without asking: `busy_s` is of the replica that fares best."""
        beats = [r.heartbeat for r in self._replicas if r.heartbeat.is_alive]
        return Heartbeat(
            bool(beats),
            self._agreed.is_paused,
            min((beat.busy_s for beat in beats), default=0.0),
            sum(beat.steps for beat in beats),
            sum(beat.output_tokens for beat in beats),
        )

    @property
    def complaint(self) -> str:
        """What an operator should know; empty when all replicas live."""
        gone = [replica for replica in self._replicas if not replica.is_alive]
        if not gone:
            return ""
        what = ", ".join(f"{replica.index} ({replica.why or 'starting'})" for replica in gone)
        return f"{len(gone)} of {len(self._replicas)} replicas do not live: {what}"

    @property
    def config(self) -> EngineConfig:
        """The settings in force at each replica, nothing left on `auto`."""
        return self._agreed.config

    # -- a Backend ---------------------------------------------------------------

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        """All outputs of a request, by index. Cancelling aborts it."""
        found: dict[int, Output] = {}
        deltas = self._follow(request, may_repeat=True)
        try:
            while len(found) < request.sampling.n:
                delta = await anext(deltas)
                if delta.output is not None:
                    found[delta.index] = delta.output
        finally:
            await deltas.aclose()
        return [found[index] for index in sorted(found)]

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Deltas as they come, the samples interleaved. Leaving the loop aborts the request."""
        left, deltas = request.sampling.n, self._follow(request, may_repeat=False)
        try:
            while left:
                delta = await anext(deltas)
                left -= delta.output is not None
                yield delta
        finally:
            await deltas.aclose()

    def generate(
        self,
        prompts: Prompts,
        sampling: SamplingParams | Sequence[SamplingParams] = SamplingParams(),  # noqa: B008
        adapter: str | None = None,
    ) -> list[Output]:
        """As `Engine.generate`."""
        ids = token_lists(self.tokenizer, prompts)
        each = [sampling] * len(ids) if isinstance(sampling, SamplingParams) else list(sampling)
        if len(each) != len(ids):
            raise RequestError(f"{len(ids)} prompts but {len(each)} sampling settings.")
        requests = [GenerateRequest(tuple(i), one, adapter) for i, one in zip(ids, each)]
        jobs: list[tuple[Flight, Future[list[Output]]]] = []
        first = 0  # that was not waited for
        try:
            for request in requests:
                while jobs[first:] and len(self._flights) >= self._room():
                    jobs[first][1].result()
                    first += 1
                jobs.append(self._start(request))
            return [output for _, outputs in jobs for output in outputs.result()]
        except BaseException:
            for flight, _ in jobs:
                self._flights.leave(flight)
            raise

    def abort(self, request_id: str) -> None:
        """Stop a request; unknown and finished ones are ignored."""
        index = self._flights.replica_of(request_id)
        if index is not None:
            self._agreed.ask([self._replicas[index]], Call("abort", (request_id,)))

    # -- administration: all replicas, or none -----------------------------------

    def abort_all(self) -> int:
        """Stop everything in flight; returns how many outputs that were."""
        return sum(self._ask(Call("abort_all")).values())

    def load_adapter(
        self, name: str, weights: LoraWeights | str | Path, *, version: int | None = None
    ) -> AdapterInfo:
        """As `Engine.load_adapter`; the directory is read here."""
        found = weights if isinstance(weights, LoraWeights) else load_peft(weights)
        with self._admin:
            old = self._agreed.adapters.get(name)
            if version is None:
                version = old.version + 1 if old else 1
            new = Kept(self._agreed.keep(found), version)
            undo = self._agreed.adapter_call(name, old)
            info: AdapterInfo = self._change(self._agreed.adapter_call(name, new), undo)
            self._agreed.adapters[name] = new
            self._forget(name)
        return info

    def unload_adapter(self, name: str) -> None:
        """Raises RequestError while requests use it at any replica; then all keep it."""
        with self._admin:
            old = self._agreed.adapters.get(name)
            undo = self._agreed.adapter_call(name, old) if old else None
            self._change(self._agreed.adapter_call(name, None), undo)
            self._agreed.adapters.pop(name, None)
            self._forget(name)

    def load_weights(self, weights: ModelWeights, *, version: int) -> str:
        """As `Engine.load_weights`."""
        with self._admin:
            new = Kept(self._agreed.keep(weights), version)
            undo = self._agreed.base_call(self._agreed.base)
            digest: str = self._change(self._agreed.base_call(new), undo)
            self._agreed.base = new
            with self._flights.lock:
                self._router.flushed()
        return digest

    def apply_settings(self, **changes: Any) -> EngineConfig:
        """As `Engine.apply_settings`. Places at the router follow."""
        with self._admin:
            before = {name: getattr(self.config, name, None) for name in changes}
            undo = Call("apply_settings", (), before)
            config = self._change(Call("apply_settings", (), changes), undo)
            self._agreed.config = config
            with self._flights.lock:
                self._router.cost = COSTS[config.cost]
                self._router.resize(**_places(config))
        return self.config

    def pause(self) -> None:
        """Freeze requests in place, at every replica. New ones queue."""
        with self._admin:
            self._change(Call("pause"), Call("resume"))
            self._agreed.is_paused = True

    def resume(self) -> None:
        with self._admin:
            self._change(Call("resume"), Call("pause"))
            self._agreed.is_paused = False

    def retract(self) -> int:
        """Send what runs back to the queues; returns how many that were."""
        return sum(self._ask(Call("retract")).values())

    def flush_cache(self) -> None:
        self._ask(Call("flush_cache"))
        with self._flights.lock:
            self._router.flushed()

    # -- figures -------------------------------------------------------------------

    def adapters(self) -> dict[str, AdapterInfo]:
        found: dict[str, AdapterInfo] = next(iter(self._ask(Call("adapters")).values()))
        return found

    def fingerprint(self, name: str) -> str:
        """Digest of an adapter. Raises BackendError when replicas hold different ones."""
        digests = set(self._ask(Call("fingerprint", (name,))).values())
        if len(digests) > 1:
            raise BackendError(f"replicas hold different weights as {name!r}; load it again.")
        return str(digests.pop())

    def read_weight(self, name: str, count: int) -> list[float] | list[list[float]]:
        """As `Engine.read_weight`, of one replica."""
        call = Call("read_weight", (name, count))
        found: list[float] | list[list[float]]
        found = next(iter(self._ask(call, self._living()[:1]).values()))
        return found

    def stats(self) -> FleetStats:
        """Sums, and each replica. Raises OutOfCapacity when none lives."""
        found = self._ask(Call("stats"), timeout_s=LOOK_S)
        for replica, stats in found.items():
            replica.stats = stats
        with self._flights.lock:
            lines = [self._line(replica, found.get(replica)) for replica in self._replicas]
        return totals.total_stats(list(found.values()), self._retired, lines)

    def explain(self, request_id: str) -> list[Explanation]:
        """As `Engine.explain`."""
        index = self._flights.replica_of(request_id)
        if index is None:
            return []
        call = Call("explain", (request_id,))
        return next(iter(self._ask(call, [self._replicas[index]]).values()))

    def recent(self) -> list[Visit]:
        """Outputs that ended last, newest first."""
        return totals.recent(self._ask(Call("recent"), timeout_s=LOOK_S).values())

    def memory_map(self, branches: int = 64) -> MemoryMap:
        found = self._ask(Call("memory_map", (branches,)), timeout_s=LOOK_S).values()
        return totals.total_memory(list(found))

    def snapshot(self, tenant: str | None = None) -> Snapshot:
        """All replicas as one engine."""
        found = self._ask(Call("snapshot", (tenant,)), timeout_s=LOOK_S)
        with self._flights.lock:
            lines = [self._line(replica, None) for replica in self._replicas]
        each = list(found.values())
        stats = totals.total_stats([one.stats for one in each], self._retired, lines)
        return totals.total_snapshot(each, stats)

    def check(self) -> None:
        """Assert the engines' invariants; for tests."""
        self._ask(Call("check"))

    def close(self) -> None:
        """End all replicas. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._flights.end_all(closed())
        for replica in self._replicas:
            replica.end()
        for replica in self._replicas:
            replica.join()
        if self._is_cluster_ours:
            self._cluster.close()

    def __enter__(self) -> ReplicatedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what replicas tell (`replica.Owner`) ----------------------------------------

    def admit(self, replica: Replica) -> None:
        """On the replica's thread."""
        facts = replica.facts
        assert facts is not None
        with self._admin:
            self._agreed.bring_up(replica, facts.config)
            with self._flights.lock:
                tokens = facts.num_pages * facts.config.page_size
                cache = tokens if facts.config.prefix_cache else 0
                places = _places(self._agreed.config)
                self._router.add(replica.index, cache_tokens=cache, **places)
                replica.is_alive = True
        self._show()

    def hear(self, replica: Replica, batch: list[News]) -> None:
        self._flights.hear(batch)
        if not all(isinstance(one, tuple) for one in batch):
            self._show()

    def lost(self, replica: Replica) -> None:
        with self._flights.lock:
            self._router.remove(replica.index)
            if replica.stats is not None:
                self._retired = totals.add(self._retired, replica.stats.counts)
                replica.stats = None
        self._flights.lost(replica.index, replica.why)
        self._show()

    # -- internals -----------------------------------------------------------------

    def _begin(self) -> None:
        try:
            for replica in self._replicas:
                replica.begin()
            for replica in self._replicas:
                replica.wait(START_S)
        except BackendError as error:
            self.close()
            config, threads = self.replica_config, self.config.num_threads
            raise ConfigError(
                f"{error}. {config.count} replicas with {threads} threads each need "
                f"{config.count * threads} free CPUs of Ray's, and memory for as many models."
            ) from error
        except BaseException:
            self.close()
            raise

    def _start_actor(self, index: int, threads: int) -> Any:
        args = (self.model_path, self._agreed.config)
        return self._cluster.start_actor(ReplicaActor, args, threads)

    async def _follow(
        self, request: GenerateRequest, *, may_repeat: bool
    ) -> AsyncGenerator[Delta, None]:
        """What its replica makes; ends only by an exception, or when it is closed."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Delta | Exception] = asyncio.Queue()

        def tell(item: Delta | Exception) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        flight = self._send(request, tell, may_repeat=may_repeat)
        try:
            while True:
                item = await items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._flights.leave(flight)

    def _start(self, request: GenerateRequest) -> tuple[Flight, Future[list[Output]]]:
        """A request of which only the finished outputs are wanted."""
        outputs: Future[list[Output]] = Future()
        found: dict[int, Output] = {}

        def tell(item: Delta | Exception) -> None:
            if isinstance(item, Exception):
                outputs.set_exception(item)
            elif item.output is not None:
                found[item.index] = item.output
                if len(found) == request.sampling.n and not outputs.done():
                    outputs.set_result([found[index] for index in sorted(found)])

        return self._send(request, tell, may_repeat=True), outputs

    def _send(self, request: GenerateRequest, tell: Tell, *, may_repeat: bool) -> Flight:
        if self._closed:
            raise closed()
        return self._flights.send(request, tell, may_repeat=may_repeat)

    def _living(self) -> list[Replica]:
        living = [replica for replica in self._replicas if replica.is_alive]
        if not living:
            raise no_replica()
        return living

    def _ask(
        self, call: Call, replicas: Iterable[Replica] | None = None, timeout_s: float | None = None
    ) -> dict[Replica, Any]:
        """Of each that lives; raises the first failure. `timeout_s`: who is slow is left out."""
        found = self._agreed.ask(replicas or self._living(), call, timeout_s)
        for value in found.values():
            if isinstance(value, Failed):
                raise value.error
        return found

    def _change(self, do: Call, undo: Call | None) -> Any:
        return self._agreed.change(self._living(), do, undo)

    def _forget(self, adapter: str) -> None:
        with self._flights.lock:
            self._router.forget(adapter)

    def _room(self) -> int:
        return sum(load.room for load in self._router.loads.values())

    def _line(self, replica: Replica, stats: Any) -> ReplicaStats:
        load = self._router.loads.get(replica.index)
        facts = replica.facts
        return ReplicaStats(
            replica.index,
            replica.is_alive,
            facts.node if facts else "",
            facts.pid if facts else 0,
            replica.restarts,
            load.in_flight if load else 0,
            load.service if load else 0.0,
            load.routed if load else 0,
            replica.why,
            dataclasses.replace(stats, tenants=()) if stats else None,
        )

    def _show(self) -> None:
        """What Prometheus is told."""
        each = [r.stats for r in self._replicas if r.is_alive and r.stats is not None]
        metrics.refresh(each, self._retired, len(self._replicas), self._router.loads)


def _places(config: EngineConfig) -> dict[str, int]:
    """What a replica begins at once, and takes in all."""
    return {"places": config.max_running, "room": config.max_running + config.max_waiting}
