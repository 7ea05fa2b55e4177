"""A clock that only moves when told to.

clock = ManualClock()
clock.now()            seconds, as time.monotonic would give
clock.advance(2.5)     move on; sleepers whose time has come wake
await clock.sleep(1)   ends when `advance` has passed it
"""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """Virtual time in seconds. Pass `clock.now` where `time.monotonic` would go.

    Sleepers belong to the event loop that awaits them; `advance` is called from that loop.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self._now_s

    def now(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` (>= 0), waking sleepers in the order of their deadlines."""
        if seconds < 0:
            raise ValueError(f"advance({seconds}): time does not run backwards; pass >= 0.")
        self._now_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now_s:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved on by `seconds`; returns at once when <= 0."""
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), future))
        await future

    @property
    def num_sleeping(self) -> int:
        return sum(not future.done() for _, _, future in self._sleepers)
