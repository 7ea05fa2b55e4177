"""Who samples: futures of `asample`, many at a time, on an event loop of their own.

    players.add(future)          from any thread
    players.cancel(id)           the engine stops, the future has failed
    players.start(), close()

As many samples are with the engine as it may queue in part, so that its other users are not
refused; the rest waits here. Those of a paused model wait whatever there is room for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from evolute.train.tinker import results, sampling
from evolute.train.tinker.bodies import SampleBody
from evolute.train.tinker.checkpoints import parse
from evolute.train.tinker.records import Future, Sampler, Status
from evolute.train.tinker.results import category_of, message_of
from evolute.types import (
    DeadlineMissed,
    EvoluteError,
    GenerateRequest,
    OutOfCapacity,
    Output,
    RequestError,
)

if TYPE_CHECKING:
    from evolute.train.tinker.service import Service

logger = logging.getLogger(__name__)
PAUSE_LOOK_S = 0.2
FULL_S = 300.0  # that a full engine is asked again
SHARE = 2  # of the engine's queue, one part in so many


class Players:
    """The service's; all but `add` and `cancel` on its loop."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service, self._loop = service, loop
        self._room = max(service.engine.config.max_waiting // SHARE, 1)
        self._waiting: deque[Future] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._is_started = False

    def add(self, future: Future) -> None:
        with self._lock:
            self._waiting.append(future)
        if self._is_started:
            self._loop.call_soon_threadsafe(self._fill)

    def start(self) -> None:
        self._is_started = True
        self._loop.call_soon_threadsafe(self._fill)

    def cancel(self, id: str) -> None:
        """What has ended stays as it is."""
        with self._lock:
            waits = [future for future in self._waiting if future.id == id]
            for future in waits:
                self._waiting.remove(future)
        for future in waits:
            self._fail(future, RequestError("the request was cancelled."))
        self._loop.call_soon_threadsafe(self._stop, id)

    def close(self) -> None:
        """Samples in progress are given up; they are made again at the next start."""
        self._is_started = False
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._stop_all, done)
        done.wait(PAUSE_LOOK_S * 10)

    # -- internals ---------------------------------------------------------------

    def _fill(self) -> None:
        """Start what there is room for; of a paused model nothing."""
        later: list[Future] = []
        while self._is_started and self._room > 0:
            with self._lock:
                future = self._waiting.popleft() if self._waiting else None
            if future is None:
                break
            if self._service.queue.is_paused(future.model_id):
                later.append(future)
                continue
            size = _size(future)
            self._room -= size
            task = self._loop.create_task(self._play(future))
            self._tasks[future.id] = task
            task.add_done_callback(partial(self._ended, future.id, size))
        if later:
            with self._lock:
                self._waiting.extendleft(reversed(later))
            self._loop.call_later(PAUSE_LOOK_S, self._fill)

    def _ended(self, id: str, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(id, None)
        self._room += size
        self._fill()

    async def _play(self, future: Future) -> None:
        """The future has ended afterwards, unless the service is closing."""
        store = self._service.store
        try:
            if future.attempts >= self._service.config.max_attempts:
                text = f"the server died in this request {future.attempts} times; it is given up."
                raise results.ServerFault(text)
            attempts = future.attempts + 1
            await asyncio.to_thread(store.change, Future, future.id, attempts=attempts)
            result = await self._result(future)
        except asyncio.CancelledError:
            if self._is_started:
                self._fail(future, RequestError("the request was cancelled."))
            else:  # an orderly end is no attempt
                store.change(Future, future.id, attempts=future.attempts)
            raise
        except Exception as error:
            if not isinstance(error, EvoluteError):
                logger.exception("sample %s failed", future.id)
            await asyncio.to_thread(self._fail, future, error)
        else:
            await asyncio.to_thread(self._end, future, result)

    async def _result(self, future: Future) -> bytes:
        service = self._service
        body = SampleBody.model_validate(json.loads(future.payload or b"{}"))
        path, salt = body.model_path, future.session_id
        if body.sampling_session_id is not None:
            sampler = await asyncio.to_thread(service.store.get, Sampler, body.sampling_session_id)
            if sampler is None:
                text = f"sampling session {body.sampling_session_id!r} is gone; make another."
                raise RequestError(text)
            path, salt = sampler.model_path, sampler.id
        adapter = await service.samplers.hold(path, parse(path) if path else None)
        try:
            request = sampling.request_of(
                body,
                adapter=adapter,
                tenant=future.owner or future.session_id,
                salt=salt,
                context=service.engine.config.context,
                vocab=service.bounds.vocab_size,
            )
            outputs = await self._patient(request)
        finally:
            service.samplers.release(adapter)
        return results.of_sample(sampling.result_of(outputs, body))

    async def _patient(self, request: GenerateRequest) -> list[Output]:
        """The engine's other users may have filled its queue: then again, for a while."""
        end = time.monotonic() + FULL_S
        while True:
            try:
                return await self._service.engine.agenerate(request)
            except OutOfCapacity as error:
                if time.monotonic() > end or isinstance(error, DeadlineMissed):
                    raise
                await asyncio.sleep(min(error.retry_after_s, PAUSE_LOOK_S * 5))

    def _end(self, future: Future, result: bytes) -> None:
        self._note(future, status=Status.DONE, result=result)

    def _fail(self, future: Future, error: Exception) -> None:
        told: dict[str, Any] = {"error": message_of(error), "category": category_of(error)}
        self._note(future, status=Status.FAILED, **told)

    def _note(self, future: Future, **columns: Any) -> None:
        try:
            self._service.store.change(
                Future, future.id, done_at=time.time(), payload=None, **columns
            )
        except Exception:
            logger.exception("the end of %s could not be noted", future.id)
        self._service.waiters.tell([future.id])

    def _stop(self, id: str) -> None:
        if id in self._tasks:
            self._tasks[id].cancel()

    def _stop_all(self, done: threading.Event) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()

        async def wait() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)
            done.set()

        self._closing = self._loop.create_task(wait())


def _size(future: Future) -> int:
    """Samples that the engine is asked for."""
    try:
        return max(int(json.loads(future.payload or b"{}").get("num_samples", 1)), 1)
    except (TypeError, ValueError):
        return 1
