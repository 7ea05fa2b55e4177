"""The engine people use: async and plain calls around the thread that steps the core.

    Engine(model, **settings)
    engine.generate(prompts, sampling, adapter=None) -> list[Output]
    await engine.agenerate(request); async for delta in engine.stream(request)
    engine.load_adapter(name, weights), unload_adapter, load_weights
    engine.pause(), resume(), retract(), abort(id), abort_all(), flush_cache(), close()
    engine.heartbeat, stats(), snapshot(tenant), memory_map(), read_weight(name)

A thread, not a process: the native step runs without the interpreter's lock, new weights are
handed over as a pointer, and a caller in the same process pays no serialisation. Calls from
other threads go through a queue of commands that the thread runs between two steps (`loop.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import numbers
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from evolute.engine.adapters import AdapterInfo, AdapterTable
from evolute.engine.allocator import give_back_memory
from evolute.engine.build import build_core
from evolute.engine.config import EngineConfig
from evolute.engine.counts import Counts
from evolute.engine.execution.adapter_loading import LoadCounts
from evolute.engine.history import Explanation, Visit, describe
from evolute.engine.loop import EngineLoop
from evolute.engine.memory import TierCounts
from evolute.engine.output import Draft
from evolute.engine.scheduling import Share
from evolute.engine.snapshot import MemoryMap, Snapshot, map_memory, take_snapshot
from evolute.grammar import Grammar
from evolute.models import LoadedModel, LoraWeights, ModelWeights, load_model, load_peft
from evolute.telemetry import Tracer
from evolute.types import Delta, GenerateRequest, Output, RequestError, SamplingParams, Tokenizer
from evolute.types.settings import from_mapping

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
LIVE_SETTINGS = {
    *("max_running", "token_budget", "num_threads", "max_waiting"),
    *("adapter_cluster", "first_token_deadline_s"),
    *("policy", "cost", "predict", "quantum", "tenant_weights"),
    *("speculation", "draft_tokens", "ngram_min", "ngram_max", "speculate_up_to"),
    *("jump_forward", "jump_tokens"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot: what is in flight, what memory holds, and exact counts since the start."""

    running: int
    waiting: int
    num_pages: int
    free_pages: int
    cached_pages: int
    weight_version: int
    counts: Counts
    adapter_pages: int  # of resident adapters
    resident_adapters: int
    adapter_loads: LoadCounts
    tier_slots: int = 0  # pages that the second tier has room for; 0: there is none, or it broke
    tier_pages: int = 0  # that it holds
    tier: TierCounts = dataclasses.field(default_factory=TierCounts)
    limit: str = ""  # what stopped the last admission
    tenants: tuple[Share, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat:
    """`busy_s` is the time since the last completed step while there is work, else 0."""

    is_alive: bool
    is_paused: bool
    busy_s: float
    steps: int
    output_tokens: int


class Engine:
    """A `Backend` on one model. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        model: str | LoadedModel,
        config: EngineConfig | None = None,
        *,
        tracer: Tracer | None = None,
        **settings: Any,
    ) -> None:
        if config is None:
            config = from_mapping(EngineConfig, settings, "engine.")
        elif settings:
            raise TypeError("give either config or single settings, not both")
        loaded = load_model(model) if isinstance(model, str) else model
        self.tokenizer, self.model_name = loaded.tokenizer, loaded.name
        self.model_path = model if isinstance(model, str) else loaded.name
        self.model_config = loaded.config
        self._core = build_core(loaded, config, cores=num_cores())
        self._adapters = AdapterTable(self._core, loaded.config, loaded.weights)
        self._loop = EngineLoop(self._core, self._adapters.resolve, tracer or Tracer(None))
        self._core.executor.watch(self._loop.break_off)
        del loaded
        give_back_memory()

    @property
    def is_alive(self) -> bool:
        """False once the engine's thread has ended."""
        return self._loop.is_alive

    @property
    def heartbeat(self) -> Heartbeat:
        """How the engine's thread is doing, without asking it: true also when it hangs."""
        loop, since = self._loop, self._loop.busy_since
        busy_s = 0.0 if since is None else max(0.0, time.monotonic() - since)
        counts = self._core.counts
        return Heartbeat(loop.is_alive, loop.is_paused, busy_s, counts.steps, counts.output_tokens)

    @property
    def config(self) -> EngineConfig:
        """The settings in force, nothing left on `auto`."""
        return self._core.settings.config

    # -- a Backend ---------------------------------------------------------------

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        """All outputs of a request, by index. Cancelling aborts it."""
        grammar = await self._compile(request.sampling)
        job = self._start(request, grammar)
        try:
            return await asyncio.wrap_future(job.outputs)
        except asyncio.CancelledError:
            self._abort(job.drafts)
            raise

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Deltas as they come, the samples interleaved. Leaving the loop aborts the request."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta] = asyncio.Queue()
        drafts: list[Draft] = []  # filled once the request is in

        def listen(delta: Delta) -> None:
            loop.call_soon_threadsafe(deltas.put_nowait, delta)

        grammar = await self._compile(request.sampling)
        left = request.sampling.n
        try:
            await asyncio.wrap_future(
                self._loop.submit(lambda: drafts.extend(self._loop.add(request, grammar, listen)))
            )
            while left:
                delta = await deltas.get()
                left -= delta.output is not None
                yield delta
        finally:
            if left:
                self._abort(drafts)

    # -- plain calls ---------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        sampling: SamplingParams | Sequence[SamplingParams] = SamplingParams(),  # noqa: B008
        adapter: str | None = None,
    ) -> list[Output]:
        """Complete one prompt or many; texts or token ids. `n` samples of a prompt are adjacent.

        A text gets the special tokens that its tokenizer adds by itself, as in /v1/completions.
        Prompts beyond engine.max_waiting are sent as others finish. Raises RequestError for the
        first prompt that cannot be served; the others are aborted.
        """
        ids_of = token_lists(self.tokenizer, prompts)
        each = [sampling] * len(ids_of) if isinstance(sampling, SamplingParams) else sampling
        if len(each) != len(ids_of):
            raise RequestError(f"{len(ids_of)} prompts but {len(each)} sampling settings.")
        jobs: list[Job] = []
        done: list[Output] = []
        waiting, first = 0, 0  # samples in flight; the first job that was not waited for
        try:
            for ids, one in zip(ids_of, each):
                while jobs[first:] and waiting + one.n > self.config.max_waiting:
                    done += jobs[first].outputs.result()
                    waiting, first = waiting - jobs[first].request.sampling.n, first + 1
                request = GenerateRequest(tuple(ids), one, adapter)
                jobs.append(self._start(request, self._core.grammars.compile(one)))
                waiting += one.n
            for job in jobs[first:]:
                done += job.outputs.result()
        except BaseException:
            for job in jobs:
                self._abort(job.drafts)
            raise
        return done

    def abort(self, request_id: str) -> None:
        """Stop a request; unknown and finished ones are ignored."""
        self._loop.submit(lambda: self._loop.abort_request(request_id))

    def abort_all(self) -> int:
        """Stop everything in flight; returns how many outputs that were."""
        return self._loop.call(self._loop.abort_all)

    def load_adapter(
        self, name: str, weights: LoraWeights | str | Path, *, version: int | None = None
    ) -> AdapterInfo:
        """Load or replace an adapter between two steps. Requests in flight go on with the new one.

        Returns its version and the fingerprint of what the engine now computes with. Raises
        ModelError for a directory that cannot be read, RequestError for one that does not fit.
        """
        found = weights if isinstance(weights, LoraWeights) else load_peft(weights)
        packed = self._adapters.prepare(name, found)  # serving goes on meanwhile
        return self._loop.call(lambda: self._adapters.install(name, packed, version))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises RequestError while requests use it."""
        self._loop.call(lambda: self._adapters.unload(name))

    def load_weights(self, weights: ModelWeights, *, version: int) -> str:
        """Replace the base weights between two steps; returns their fingerprint.

        Raises RequestError, with nothing loaded, when names or shapes differ.
        """
        fingerprint = self._loop.call(lambda: self._adapters.load_base(weights, version))
        give_back_memory()
        return fingerprint

    def adapters(self) -> dict[str, AdapterInfo]:
        return self._loop.call(self._adapters.infos)

    def fingerprint(self, name: str) -> str:
        """Digest of an adapter as the engine holds it."""
        return self._loop.call(lambda: self._adapters.fingerprint(name))

    def pause(self) -> None:
        """Freeze requests in place, after the step in progress. New ones queue."""
        self._loop.call(lambda: setattr(self._loop, "is_paused", True))

    def resume(self) -> None:
        self._loop.call(lambda: setattr(self._loop, "is_paused", False))

    def retract(self) -> int:
        """Send what runs back to the queue, its pages to the cache; returns how many that were."""
        return self._loop.call(self._core.retract)

    def flush_cache(self) -> None:
        """Empty the prefix cache; what is in use goes when it is done."""
        self._loop.call(self._core.flush)

    def apply_settings(self, /, **changes: Any) -> EngineConfig:
        """Change settings that need no restart: max_running, token_budget, num_threads, ...

        Raises RequestError for one that needs a restart, ConfigError for a value that cannot be.
        """
        fixed = set(changes) - LIVE_SETTINGS
        if fixed & {field.name for field in dataclasses.fields(EngineConfig)}:
            raise RequestError(
                f"{', '.join(sorted(fixed))} cannot change while running; only "
                f"{', '.join(sorted(LIVE_SETTINGS))} can. Start an engine with the new settings."
            )
        return self._loop.call(lambda: self._apply(changes))

    def read_weight(self, name: str, count: int) -> list[float] | list[list[float]]:
        """The first `count` rows of a base weight, as the engine computes with them.

        Raises RequestError for a name that the model does not have.
        """
        return self._loop.call(lambda: self._adapters.read_weight(name, count))

    def stats(self) -> EngineStats:
        return self._loop.call(self._stats)

    def explain(self, request_id: str) -> list[Explanation]:
        """Where each output of a request is and why it waits; empty when none is in flight."""
        return self._loop.call(lambda: self._loop.explain(request_id))

    def recent(self) -> list[Visit]:
        """Outputs that ended last, newest first."""
        return self._loop.call(self._loop.history.recent)

    def memory_map(self, branches: int = 64) -> MemoryMap:
        """Who owns the pages, with the `branches` of the prefix cache that hold most."""
        return self._loop.call(lambda: map_memory(self._core.placement, branches))

    def snapshot(self, tenant: str | None = None) -> Snapshot:
        """Everything to look at, between two steps. With `tenant` only its requests and share."""

        def take() -> Snapshot:
            return take_snapshot(self._loop, self._adapters.infos(), self._stats(), tenant)

        return self._loop.call(take)

    def check(self) -> None:
        """Assert the engine's own invariants; for tests."""
        self._loop.call(self._core.check)

    def close(self) -> None:
        """Abort everything, end the threads and the processes of other ranks. Idempotent."""
        self._loop.close()
        self._core.loader.close()
        self._core.executor.close()
        self._core.placement.tier.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- internals -----------------------------------------------------------------

    def _start(self, request: GenerateRequest, grammar: Grammar | None) -> Job:
        """Send a request of which only the finished outputs are wanted."""
        job = Job(request)

        def add() -> None:
            try:
                job.drafts.extend(self._loop.add(request, grammar, job.listen))
            except Exception as error:
                job.outputs.set_exception(error)

        job.outputs.set_running_or_notify_cancel()  # it cannot be cancelled, only aborted
        self._loop.submit(add).add_done_callback(job.refuse)
        return job

    def _abort(self, drafts: list[Draft]) -> None:
        """`drafts` is read on the engine's thread, after the request has come in."""
        self._loop.submit(lambda: self._loop.abort(drafts))

    async def _compile(self, sampling: SamplingParams) -> Grammar | None:
        if not sampling.is_constrained:
            return None
        return await asyncio.to_thread(self._core.grammars.compile, sampling)

    def _apply(self, changes: dict[str, Any]) -> EngineConfig:
        values = dataclasses.asdict(self.config) | changes
        config = from_mapping(EngineConfig, values, "engine.")
        self._core.apply(dataclasses.replace(config, num_threads=config.num_threads or num_cores()))
        return self.config

    def _stats(self) -> EngineStats:
        core, placement = self._core, self._core.placement
        return EngineStats(
            running=len(core.running),
            waiting=core.num_waiting,
            num_pages=placement.pool.num_pages,
            free_pages=placement.pool.num_free,
            cached_pages=placement.cache.num_pages,
            weight_version=self._adapters.base_version,
            counts=dataclasses.replace(core.counts),
            adapter_pages=placement.adapters.num_pages,
            resident_adapters=placement.adapters.num_resident,
            adapter_loads=dataclasses.replace(core.loader.counts),
            tier_slots=placement.tier.num_slots,
            tier_pages=placement.tier.num_pages,
            tier=dataclasses.replace(placement.tier.counts),
            limit=describe(core.blocked) if core.num_waiting else "",
            tenants=tuple(core.queue.shares()),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A request whose outputs are wanted when all of them are done."""

    request: GenerateRequest
    outputs: Future[list[Output]] = dataclasses.field(default_factory=Future)
    drafts: list[Draft] = dataclasses.field(default_factory=list)
    _done: list[Output] = dataclasses.field(default_factory=list)

    def refuse(self, sent: Future[None]) -> None:
        """The engine ended before it came to this request."""
        error = sent.exception()
        if error is not None:
            self.outputs.set_exception(error)

    def listen(self, delta: Delta) -> None:
        if delta.output is not None:
            self._done.append(delta.output)
            if len(self._done) == self.request.sampling.n:
                self.outputs.set_result(sorted(self._done, key=lambda output: output.index))


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def token_lists(tokenizer: Tokenizer, prompts: Prompts) -> list[list[int]]:
    """One prompt or many, texts or token ids, as token ids."""
    if isinstance(prompts, str):
        prompts = [prompts]
    items: list[Any] = list(prompts)
    if items and all(isinstance(item, numbers.Integral) for item in items):
        items = [items]
    return [
        tokenizer.encode(item, add_special_tokens=True)
        if isinstance(item, str)
        else [int(token) for token in item]
        for item in items
    ]
