"""How many run at once, whatever event loop they are on?

    Slots(count)      async with slots.held() as number: ...

An asyncio.Semaphore belongs to one loop; graders run in threads with loops of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[int]"]


class Slots:
    """Numbers 0 ... count - 1, each held by one at a time, given in the order of asking.

    Invariant: a number is free, held, or on its way to exactly one waiter.
    """

    def __init__(self, count: int) -> None:
        assert count > 0
        self.count = count
        self._lock = threading.Lock()
        self._free = list(range(count - 1, -1, -1))
        self._waiting: deque[Waiter] = deque()

    @property
    def num_free(self) -> int:
        with self._lock:
            return len(self._free)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[int]:
        number = await self._take()
        try:
            yield number
        finally:
            self._give(number)

    # -- internals ---------------------------------------------------------------

    async def _take(self) -> int:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._free:
                return self._free.pop()
            future: asyncio.Future[int] = loop.create_future()
            self._waiting.append((loop, future))
        try:
            return await future
        except asyncio.CancelledError:
            self._give_up((loop, future))
            raise

    def _give_up(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if waiter[1].done() and not waiter[1].cancelled():  # it came, and nobody took it
            self._give(waiter[1].result())

    def _give(self, number: int) -> None:
        with self._lock:
            while self._waiting:
                loop, future = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(self._deliver, future, number)
                except RuntimeError:  # that loop is closed
                    continue
                return
            self._free.append(number)

    def _deliver(self, future: asyncio.Future[int], number: int) -> None:
        if future.done():  # cancelled meanwhile
            self._give(number)
        else:
            future.set_result(number)
