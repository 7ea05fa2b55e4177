"""The engine people use: a thread that steps the core, with async and plain calls around it.

    Engine(model, **settings)
    engine.generate(prompts, sampling, adapter=None) -> list[Output]
    await engine.agenerate(request); async for delta in engine.stream(request)
    engine.load_adapter(name, weights), unload_adapter, load_weights
    engine.pause(), resume(), abort(id), flush_cache(), stats(), close()

A thread, not a process: the native step runs without the interpreter's lock, new weights are
handed over as a pointer, and a caller in the same process pays no serialisation. Calls from
other threads go through a queue of commands that the thread runs between two steps.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from evolute.engine.adapters import AdapterInfo, AdapterTable
from evolute.engine.build import build_core
from evolute.engine.config import EngineConfig
from evolute.engine.core import Counts, EngineCore
from evolute.engine.metrics import refresh
from evolute.engine.output import Draft
from evolute.models import LoadedModel, LoraWeights, ModelWeights, load_model
from evolute.types import Delta, FinishReason, GenerateRequest, Output, RequestError, SamplingParams
from evolute.types.settings import from_mapping

logger = logging.getLogger(__name__)
T = TypeVar("T")
Listener = Callable[[Delta], None]
COMMAND_TIMEOUT_S = 300.0
Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


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


class Engine:
    """A `Backend` on one model. Use it as a context manager, or call `close`."""

    def __init__(
        self, model: str | LoadedModel, config: EngineConfig | None = None, **settings: Any
    ) -> None:
        if config is None:
            config = from_mapping(EngineConfig, settings, "engine.")
        elif settings:
            raise TypeError("give either config or single settings, not both")
        self._model = load_model(model) if isinstance(model, str) else model
        self._core: EngineCore = build_core(self._model, config, cores=os.cpu_count() or 1)
        self._adapters = AdapterTable(self._core)
        self._listeners: dict[Draft, Listener] = {}
        self._by_request: dict[str, list[Draft]] = {}
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_paused = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="evolute-engine", daemon=True)
        self._thread.start()

    # -- a Backend ---------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        return self._model.tokenizer

    @property
    def model_name(self) -> str:
        return self._model.name

    @property
    def is_alive(self) -> bool:
        """False once the engine's thread has ended."""
        return self._thread.is_alive()

    @property
    def config(self) -> EngineConfig:
        """The settings in force, nothing left on `auto`."""
        return self._core.settings.config

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        """All outputs of a request, by index. Cancelling aborts it."""
        outputs = [delta.output async for delta in self.stream(request) if delta.output]
        return sorted(outputs, key=lambda output: output.index)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Deltas as they come, the samples interleaved. Leaving the loop aborts the request."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta] = asyncio.Queue()

        def listen(delta: Delta) -> None:
            loop.call_soon_threadsafe(deltas.put_nowait, delta)

        if request.sampling.is_constrained:  # compiled and cached away from the engine's thread
            await asyncio.to_thread(self._core.grammars.compile, request.sampling)
        left = request.sampling.n
        try:
            await asyncio.wrap_future(self._submit(lambda: self._add(request, listen)))
            while left:
                delta = await deltas.get()
                left -= delta.output is not None
                yield delta
        except RequestError:  # refused: nothing of it is in the engine
            left = 0
            raise
        finally:
            if left:
                self.abort(request.id)

    # -- plain calls ---------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        sampling: SamplingParams | Sequence[SamplingParams] = SamplingParams(),  # noqa: B008
        adapter: str | None = None,
    ) -> list[Output]:
        """Complete one prompt or many; texts or token ids. `n` samples of a prompt are adjacent.

        Raises RequestError for the first prompt that cannot be served; the others are aborted.
        """
        token_lists = self._token_lists(prompts)
        each = [sampling] * len(token_lists) if isinstance(sampling, SamplingParams) else sampling
        if len(each) != len(token_lists):
            raise RequestError(f"{len(token_lists)} prompts but {len(each)} sampling settings.")
        requests = [
            GenerateRequest(tuple(ids), one, adapter) for ids, one in zip(token_lists, each)
        ]
        futures = [self._start(request) for request in requests]
        try:
            return [output for future in futures for output in future.result()]
        except BaseException:
            for request in requests:
                self.abort(request.id)
            raise

    def abort(self, request_id: str) -> None:
        """Stop a request; unknown and finished ones are ignored."""

        def run() -> None:
            drafts = [d for d in self._by_request.pop(request_id, []) if d.output is None]
            self._core.abort(drafts)
            for draft in drafts:
                self._tell(draft, Delta(draft.index, "", (), (), (), draft.output))

        self._submit(run)

    def load_adapter(
        self, name: str, weights: LoraWeights | str | Path, *, version: int | None = None
    ) -> AdapterInfo:
        """Load or replace an adapter between two steps. Requests in flight go on with the new one.

        Returns its version and the fingerprint of what the engine now computes with.
        """
        return self._call(lambda: self._adapters.load(name, weights, version))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises RequestError while requests use it."""
        self._call(lambda: self._adapters.unload(name))

    def load_weights(self, weights: ModelWeights, *, version: int) -> str:
        """Replace the base weights between two steps; returns their fingerprint."""
        return self._call(lambda: self._adapters.load_base(weights, version))

    def adapters(self) -> dict[str, AdapterInfo]:
        return self._call(self._adapters.infos)

    def fingerprint(self, name: str) -> str:
        """Digest of an adapter as the engine holds it."""
        return self._call(lambda: self._adapters.fingerprint(name))

    def pause(self) -> None:
        """Freeze requests in place, after the step in progress."""
        self._call(lambda: setattr(self, "_is_paused", True))

    def resume(self) -> None:
        self._call(lambda: setattr(self, "_is_paused", False))

    def flush_cache(self) -> None:
        """Empty the prefix cache; what is in use goes when it is done."""
        self._call(self._core.flush)

    def apply_settings(self, **changes: Any) -> EngineConfig:
        """Change settings that need no restart: max_running, token_budget, num_threads, ..."""
        return self._call(lambda: self._apply(changes))

    def stats(self) -> EngineStats:
        return self._call(self._stats)

    def close(self) -> None:
        """Abort everything and end the thread. Idempotent."""
        if not self._is_closed:
            self._submit(self._shut)
            self._thread.join(timeout=30)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the engine's thread -----------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            idle = self._is_paused or self._core.is_idle
            self._drain(wait=idle)
            if not self._is_paused and not self._core.is_idle:
                self._step()
        for draft in [d for drafts in self._by_request.values() for d in drafts]:
            self._tell(draft, Delta(draft.index, "", (), (), (), draft.finish(FinishReason.ABORT)))

    def _drain(self, *, wait: bool) -> None:
        try:
            self._commands.get(block=wait, timeout=1.0)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            pass

    def _step(self) -> None:
        try:
            events = self._core.step()
        except Exception as error:  # the requests of this step are lost, the engine goes on
            logger.exception("a step failed; its requests end with an error")
            self._fail_running(f"{type(error).__name__}: {error}")
            return
        for event in events:
            self._tell(event.draft, event.delta)
        refresh(self._core)

    def _fail_running(self, error: str) -> None:
        drafts = [d for drafts in self._by_request.values() for d in drafts if d.output is None]
        running = set(self._core.running) or {d.sequence for d in drafts}
        for draft in drafts:
            if draft.sequence in running:
                self._core.abort([draft], FinishReason.ERROR)
                assert draft.output is not None
                draft.output = dataclasses.replace(draft.output, error=error)
                self._tell(draft, Delta(draft.index, "", (), (), (), draft.output))

    def _tell(self, draft: Draft, delta: Delta) -> None:
        listener = self._listeners.get(draft)
        if draft.output is not None:
            self._listeners.pop(draft, None)
            drafts = self._by_request.get(draft.request.id, [])
            if draft in drafts:
                drafts.remove(draft)
            if not drafts:
                self._by_request.pop(draft.request.id, None)
        if listener:
            try:
                listener(delta)
            except RuntimeError:  # the listener's event loop is closed: nobody listens any more
                logger.debug("listener of %s is gone", draft.request.id)

    def _add(self, request: GenerateRequest, listener: Listener) -> None:
        if self._is_closed:
            raise RequestError("the engine is closed.")
        if request.id in self._by_request:
            raise RequestError(f"a request with id {request.id!r} is in flight; ids are unique.")
        adapter, namespace = self._adapters.resolve(request)
        drafts = self._core.add(request, adapter, namespace)
        self._by_request[request.id] = list(drafts)
        for draft in drafts:
            self._listeners[draft] = listener

    def _apply(self, changes: dict[str, Any]) -> EngineConfig:
        live = {"max_running", "token_budget", "num_threads", "max_waiting", "policy"}
        fixed = set(changes) - live
        if fixed:
            raise RequestError(
                f"{', '.join(sorted(fixed))} cannot change while running; only "
                f"{', '.join(sorted(live))} can. Start an engine with the new settings."
            )
        self._core.apply(dataclasses.replace(self.config, **changes))
        return self.config

    def _stats(self) -> EngineStats:
        core = self._core
        return EngineStats(
            running=len(core.running),
            waiting=core.num_waiting,
            num_pages=core.pool.num_pages,
            free_pages=core.pool.num_free,
            cached_pages=core.cache.num_pages,
            weight_version=self._adapters.base_version,
            counts=dataclasses.replace(core.counts),
        )

    def _shut(self) -> None:
        self._is_closed = True

    # -- from other threads --------------------------------------------------------

    def _submit(self, command: Callable[[], T]) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(command())
            except BaseException as error:
                future.set_exception(error)

        self._commands.put(run)
        return future

    def _call(self, command: Callable[[], T]) -> T:
        if self._is_closed:
            raise RequestError("the engine is closed.")
        return self._submit(command).result(timeout=COMMAND_TIMEOUT_S)

    def _start(self, request: GenerateRequest) -> concurrent.futures.Future[list[Output]]:
        done: concurrent.futures.Future[list[Output]] = concurrent.futures.Future()
        outputs: list[Output] = []

        def listen(delta: Delta) -> None:
            if delta.output:
                outputs.append(delta.output)
            if len(outputs) == request.sampling.n:
                done.set_result(sorted(outputs, key=lambda output: output.index))

        def run() -> None:
            try:
                self._add(request, listen)
            except Exception as error:
                done.set_exception(error)

        self._submit(run)
        return done

    def _token_lists(self, prompts: Prompts) -> list[list[int]]:
        if isinstance(prompts, str):
            prompts = [prompts]
        items: Iterable[Any] = list(prompts)
        if all(isinstance(item, int) for item in items):
            items = [items]
        return [self.tokenizer.encode(i) if isinstance(i, str) else list(i) for i in items]
