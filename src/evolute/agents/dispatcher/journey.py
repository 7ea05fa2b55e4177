"""One trajectory's way through the stages, and what is owed on every way out.

    Journey(ticket, lifecycle, config, gates, queues, books).lead() -> Ending

    LIVE [ INIT ]-queue-[ RUN ]-queue-[ EVAL ] close

Decided elsewhere: who goes in (gate.py), how long (bounded.py), what is counted (books.py).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from evolute.agents.bounded import StageTimeout, to_its_end, within
from evolute.agents.dispatcher.books import Books
from evolute.agents.dispatcher.gate import Gate, Ticket
from evolute.agents.dispatcher.lifecycle import End, Ending, Lifecycle, Stage, Times
from evolute.agents.dispatcher.settings import DispatchConfig
from evolute.agents.metrics import INSIDE, LIVE, WAITING
from evolute.types import RequestError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Gates = Mapping[Stage, Gate]


class Journey(Generic[T]):
    """Leads `lifecycle` through the gates. `queues` lie before the stages they are named by."""

    def __init__(
        self,
        ticket: Ticket,
        lifecycle: Lifecycle[T],
        config: DispatchConfig,
        gates: Gates,
        queues: Gates,
        books: Books,
    ) -> None:
        self._ticket, self._lifecycle, self._config = ticket, lifecycle, config
        self._gates, self._queues, self._books = gates, queues, books
        self._ending: Ending[T] = Ending(End.CANCELLED)  # unless something else happens
        self._is_open = False  # a start has begun and no close has

    async def lead(self) -> Ending[T]:
        """Never raises: whatever happens is the ending. Called once."""
        began_s = _now()
        try:
            async with self._slot(Stage.LIVE):
                with LIVE.track_inprogress():
                    try:
                        await self._through()
                    finally:
                        await self._close()
        except asyncio.CancelledError:
            pass  # the ending says what was known by then
        finally:
            self._ending.seconds = _now() - began_s
            self._books.leave(self._ticket, self._ending)
        return self._ending

    # -- internals ---------------------------------------------------------------

    async def _through(self) -> None:
        ending, life = self._ending, self._lifecycle
        try:
            async with self._slot(Stage.INIT):
                await self._tried(Stage.INIT, self._start)
                await self._hand_over(Stage.INIT, Stage.RUN)
            async with self._slot(Stage.RUN):
                await self._limited(Stage.RUN, life.act())
                await self._hand_over(Stage.RUN, Stage.EVAL)
            async with self._slot(Stage.EVAL):
                ending.value = await self._tried(Stage.EVAL, life.grade)
            ending.end, ending.stage = End.DONE, None
        except Exception as error:
            ending.end, ending.error = End.FAILED, error

    @asynccontextmanager
    async def _slot(self, stage: Stage) -> AsyncIterator[None]:
        """Inside the stage. Who stands in the queue before it leaves that on every way."""
        gate, queue = self._gates[stage], self._queues.get(stage)
        times = self._ending.times.setdefault(stage, Times())
        began_s = _now()
        try:
            with WAITING.labels(stage.value).track_inprogress():
                await gate.enter(self._ticket)
        finally:
            times.wait_s = _now() - began_s
            if queue is not None:
                queue.leave()
        self._ending.stage = stage
        try:
            with INSIDE.labels(stage.value).track_inprogress():
                yield
        finally:
            gate.leave()

    async def _hand_over(self, done: Stage, following: Stage) -> None:
        """A place in the next queue, waited for with the slot of the stage that is done."""
        began_s = _now()
        await self._queues[following].enter(self._ticket)
        self._ending.times[done].handover_s = _now() - began_s

    async def _start(self) -> None:
        self._is_open = True
        self._books.starts += 1
        await self._lifecycle.start()

    async def _tried(self, stage: Stage, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The stage, again after failures. RequestError is about settings and never passes."""
        for attempt in itertools.count():
            try:
                return await self._limited(stage, make())
            except RequestError:
                raise
            except Exception as error:
                if attempt >= self._config.retries:
                    raise
                logger.info("%s of %s is tried again: %r", stage, self._ticket.name, error)
            self._ending.attempts += 1
            self._books.retried(stage)
            if stage is Stage.INIT:
                await self._close()
            await asyncio.sleep(self._config.retry_wait_s * 2**attempt)
        raise AssertionError("counting has no end")

    async def _limited(self, stage: Stage, coroutine: Coroutine[Any, Any, Any]) -> Any:
        began_s = _now()
        limit_s = float(getattr(self._config, f"{stage}_timeout_s"))
        what = f"{stage} of {self._ticket.name}, limited by dispatch.{stage}_timeout_s,"
        try:
            return await within(coroutine, limit_s, what, self._config.grace_s)
        except StageTimeout:
            self._books.timed_out(stage)
            raise
        finally:
            self._ending.times[stage].service_s += _now() - began_s

    async def _close(self) -> None:
        """Once for each start, also while we are being cancelled."""
        if not self._is_open:
            return
        self._is_open = False
        self._books.closes += 1
        error = await to_its_end(self._lifecycle.close(), self._config.close_timeout_s)
        if error is not None:
            self._books.close_failures += 1
            logger.warning("closing the world of %s failed: %r", self._ticket.name, error)


# -- internals ---------------------------------------------------------------


def _now() -> float:
    return asyncio.get_running_loop().time()
