"""The thread that owns the core: commands between steps, news to whoever listens.

    submit(command) -> Future     run it on the thread, between two steps
    call(command)                 the same, and wait for the result
    add(request, listener), abort_request(id), abort(drafts), in_flight()    from within commands
    pause, resume, close
    busy_since     when a step was last completed: a heartbeat that needs no command

    while open:   (idle: inspect) -> commands (waits when idle or paused) -> the late end
                  -> one step -> listeners

When the thread ends, by `close` or by a fault of its own, every draft gets its last delta and
every waiting command an error: nobody waits for ever.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from evolute.engine.allocator import give_back_memory
from evolute.engine.core import EngineCore
from evolute.engine.early_abort import EarlyAbort
from evolute.engine.execution.batch import ExecutorLost
from evolute.engine.history import Explanation, History, describe, explain
from evolute.engine.metrics import refresh
from evolute.engine.output import Draft, Event
from evolute.engine.rates import Rates
from evolute.engine.scheduling import Namespace
from evolute.grammar import Grammar
from evolute.telemetry import Tracer
from evolute.types import BackendError, Delta, FinishReason, GenerateRequest, RequestError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Listener = Callable[[Delta], None]
Resolve = Callable[[GenerateRequest], tuple[int, Namespace]]
COMMAND_TIMEOUT_S = 300.0
WALK_EVERY_S = 60.0  # an idle engine looks at every page so often, at their sums each time, and
# gives back what memory is free


class EngineLoop:
    """Steps a core on its own thread. Methods below `-- on the thread` belong to commands."""

    def __init__(self, core: EngineCore, resolve: Resolve, tracer: Tracer) -> None:
        self.core, self._tracer = core, tracer
        self.is_paused = self._should_close = False
        self._fault: Exception | None = None  # with which the thread is to end
        # time.monotonic of the last completed step, or of the command that woke the thread; None:
        # there is nothing to do
        self.busy_since: float | None = None
        self._resolve = resolve
        self._listeners: dict[Draft, Listener] = {}
        self._by_request: dict[str, list[Draft]] = {}
        self._walked_s, self._walked_at = time.monotonic(), 0  # when, and after how many steps
        self._step_begun = 0.0
        self.history, self.rates, self.early = History(), Rates(), EarlyAbort()
        self._commands: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]
        self._commands = queue.SimpleQueue()
        self._end: Callable[[], Exception] | None = None  # why no more commands are taken
        self._end_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="evolute-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    # -- from other threads ----------------------------------------------------

    def submit(self, command: Callable[[], T]) -> Future[T]:
        """The command's result or exception; an error at once when the thread has ended."""
        future: Future[T] = Future()
        with self._end_lock:
            if self._end is None:
                self._commands.put((future, command))
            else:
                future.set_exception(self._end())
        return future

    def call(self, command: Callable[[], T]) -> T:
        try:
            return self.submit(command).result(timeout=COMMAND_TIMEOUT_S)
        except TimeoutError:
            raise BackendError(
                f"the engine did not come to this command within {COMMAND_TIMEOUT_S:g} s; a step "
                "takes too long (lower engine.token_budget) or hangs."
            ) from None

    def close(self) -> None:
        """End what runs as aborted, and the thread. Idempotent."""
        self.submit(lambda: setattr(self, "_should_close", True))
        self._thread.join(timeout=30)

    def break_off(self, why: Exception) -> None:
        """End the thread with this fault, at once if it waits."""
        self._fault = why
        self.submit(lambda: None)

    # -- on the thread: commands -------------------------------------------------

    def add(
        self, request: GenerateRequest, grammar: Grammar | None, listener: Listener
    ) -> list[Draft]:
        """Queue a request. Raises what `EngineCore.add` does."""
        if request.id in self._by_request:
            raise RequestError(f"a request with id {request.id!r} is in flight; ids are unique.")
        drafts = self.core.add(request, *self._resolve(request), grammar)
        self._by_request[request.id] = list(drafts)
        self._listeners |= dict.fromkeys(drafts, listener)
        now, deadline_s = time.monotonic(), request.deadline_s
        if deadline_s is None:
            deadline_s = self.core.settings.config.first_token_deadline_s
        self.early.arrived(drafts, deadline_s, now)
        for draft in drafts:
            self.history.arrived(draft, now)
        return drafts

    def explain(self, request_id: str) -> list[Explanation]:
        """Of each of its outputs in flight; empty when there is none."""
        return [explain(self.core, draft) for draft in self._by_request.get(request_id, [])]

    def in_flight(self) -> list[Draft]:
        """Every draft that waits or runs, in the order of arrival."""
        return list(self._listeners)

    def abort_request(self, request_id: str) -> None:
        """Unknown and finished ones are ignored."""
        self.abort(self._by_request.get(request_id, []))

    def abort_all(self) -> int:
        """End everything in flight; returns how many outputs that were."""
        drafts = list(self._listeners)
        self.abort(drafts)
        return len(drafts)

    def abort(self, drafts: Iterable[Draft]) -> None:
        self._tell(self.core.abort(drafts))

    # -- on the thread: the loop -------------------------------------------------

    def _run(self) -> None:
        why: Callable[[], Exception] = closed
        try:
            while not self._should_close:
                if self._fault is not None:
                    raise self._fault
                idle = self.is_paused or self.core.is_idle
                if self.core.is_idle:
                    self._inspect()
                self._run_commands(wait=idle)
                self._end_late()
                if not (self.is_paused or self.core.is_idle or self._should_close):
                    self._step_safely()
            self._tell(self.core.abort(self._listeners))
        except BaseException as error:
            logger.critical("the engine's thread ends", exc_info=error)
            text = f"the engine broke: {type(error).__name__}: {error}; start it anew."
            why = functools.partial(BackendError, text)
        self._finish(why)

    def _run_commands(self, *, wait: bool) -> None:
        try:
            if wait:
                self.busy_since = None
                first = self._commands.get(timeout=self._idle_s())
                self.busy_since = time.monotonic()
                self._carry_out(*first)
            while True:
                self._carry_out(*self._commands.get_nowait())
        except queue.Empty:
            pass

    def _idle_s(self) -> float | None:
        """How long to wait for a command: a request of a paused engine may become late."""
        due_s = self.early.next_due_s()
        return None if due_s is None else max(due_s - time.monotonic(), 0.0)

    def _end_late(self) -> None:
        try:
            for late in self.early.before(self.core, time.monotonic()):
                self._tell(self.core.end_late(late.drafts, late.why, late.retry_after_s))
        except Exception as error:
            logger.exception("late requests could not be ended")
            self._recover(f"{type(error).__name__}: {error}")

    def _carry_out(self, future: Future[Any], command: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(command())
        except BaseException as error:
            future.set_exception(error)

    def _inspect(self) -> None:
        """Before the thread waits. What is found wrong is repaired; nothing here ends it."""
        now, steps = time.monotonic(), self.core.counts.steps
        whole = now - self._walked_s >= WALK_EVERY_S and steps > self._walked_at
        if whole:
            self._walked_s, self._walked_at = now, steps
        try:
            self._tell(self.core.inspect(whole=whole))
            refresh(self.core)
            if whole:
                give_back_memory()
        except Exception:
            logger.exception("the accounts of pages could not be inspected")

    def _step_safely(self) -> None:
        """Planning failed, or the accounts: those that run are lost, the engine goes on."""
        try:
            self._step()
        except ExecutorLost:
            raise
        except Exception as error:
            logger.exception("a step failed; its requests end with an error")
            self._recover(f"{type(error).__name__}: {error}")

    def _recover(self, why: str) -> None:
        """End those that run. When the accounts are too broken even for that, all end and the
        accounts begin anew. Whoever ended without being told is told now."""
        try:
            self._tell(self.core.fail_running(why))
        except Exception:
            logger.exception("the accounts are broken; they begin anew, and all requests end")
            self.core.abandon(why)
        ended = [draft for draft in self._listeners if draft.output is not None]
        self._tell([Event(draft, draft.last_word()) for draft in ended])
        self.busy_since = time.monotonic()

    def _step(self) -> None:
        started, before = self._tracer.now_s(), self.core.counts.computed_tokens
        waited_for, begun = describe(self.core.blocked), self._step_begun
        self._step_begun = time.monotonic()
        steps, tier = self.core.counts.steps, self.core.placement.tier
        restore_s = tier.counts.restore_s
        events = self.core.step()
        now = time.monotonic()
        self.rates.note(now, self.core.counts)
        tokens = self.core.counts.computed_tokens - before
        seconds = now - self._step_begun
        tier.costs.computed(tokens, seconds - (tier.counts.restore_s - restore_s))
        self.early.after(self.core, now, seconds, tokens)
        for draft in self.core.admitted:
            self.history.admitted(draft, now, waited_for, begun)
        self._tell(events)
        if events or self.core.counts.steps > steps:
            self.busy_since = time.monotonic()
        refresh(self.core)
        if self._tracer.is_enabled:
            self._tracer.add("engine/step", started, self._tracer.now_s(), tokens=tokens)

    def _tell(self, events: list[Event]) -> None:
        unheard: list[Draft] = []
        now = time.monotonic()
        for event in events:
            draft = event.draft
            self.history.told(draft, now)
            listener = self._listeners.get(draft)
            if event.delta.output is not None:  # a step may have several events of one draft
                self._forget(draft)
            try:
                if listener is not None:
                    listener(event.delta)
            except Exception:  # e.g. its event loop is closed: nobody will read the rest
                logger.warning("nobody listens to %s any more", draft.request.id, exc_info=True)
                unheard.append(draft)
        for draft in unheard:
            self._listeners.pop(draft, None)
            self._tell(self.core.abort([draft]))

    def _forget(self, draft: Draft) -> None:
        self._listeners.pop(draft, None)
        drafts = self._by_request.get(draft.request.id, [])
        if draft in drafts:
            drafts.remove(draft)
        if not drafts:
            self._by_request.pop(draft.request.id, None)
            self.early.forget(draft.request.id)

    def _finish(self, why: Callable[[], Exception]) -> None:
        """Take no more commands; answer everybody who still waits."""
        with self._end_lock:
            self._end = why
        for draft, listener in list(self._listeners.items()):
            try:
                listener(draft.finish(FinishReason.ERROR, str(why())))
            except Exception:
                logger.exception("a listener could not be told of the end")
        self._listeners.clear()
        self._by_request.clear()
        while not self._commands.empty():
            future, _ = self._commands.get_nowait()
            if future.set_running_or_notify_cancel():
                future.set_exception(why())


def closed() -> RequestError:
    return RequestError("the engine is closed; make a new one.")
