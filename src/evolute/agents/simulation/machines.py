"""A machine that many jobs share: how long does each take?

    machine = SharedMachine(rate, full)
    await machine.work(units)        done when the job has had so many units
    machine.busy_s()                 seconds of full use so far

Processor sharing: while n jobs are there each gets rate(n) units a second; `full` is n * rate(n)
when the machine is used up. Exact between events, whatever the loop's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

SLACK = 1e-9  # of a job's units: sums of floats


class SharedMachine:
    """Jobs are served on the running loop's clock. `max_jobs` 0: all that come."""

    def __init__(self, rate: Callable[[int], float], full: float, max_jobs: int = 0) -> None:
        self._rate, self._full = rate, full
        self._room = asyncio.Semaphore(max_jobs) if max_jobs else None
        self._jobs: list[tuple[float, int, asyncio.Future[None]]] = []  # heap by served at end
        self._served = 0.0  # units that a job which was always there has had
        self._busy_s = 0.0
        self._since_s = 0.0
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.peak_jobs = 0

    async def work(self, units: float) -> None:
        if units <= 0:
            return
        if self._room is None:
            await self._serve(units)
            return
        async with self._room:
            await self._serve(units)

    def busy_s(self) -> float:
        self._advance()
        return self._busy_s

    # -- internals ---------------------------------------------------------------

    async def _serve(self, units: float) -> None:
        self._advance()
        future = asyncio.get_running_loop().create_future()
        job = (self._served + units, next(self._order), future)
        heapq.heappush(self._jobs, job)
        self.peak_jobs = max(self.peak_jobs, len(self._jobs))
        self._set_timer()
        try:
            await future
        except asyncio.CancelledError:
            self._advance()
            if job in self._jobs:
                self._jobs.remove(job)
                heapq.heapify(self._jobs)
            self._set_timer()
            raise

    def _advance(self) -> None:
        """Serve all up to now."""
        now_s = asyncio.get_running_loop().time()
        count, passed_s = len(self._jobs), now_s - self._since_s
        self._since_s = now_s
        if count and passed_s > 0:
            served = self._rate(count) * passed_s
            self._served += served
            self._busy_s += count * served / self._full

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._jobs:
            left = max(self._jobs[0][0] - self._served, 0.0)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(left / self._rate(len(self._jobs)), self._finish)

    def _finish(self) -> None:
        self._timer = None
        self._advance()
        slack = SLACK * max(self._served, 1.0)
        while self._jobs and self._jobs[0][0] <= self._served + slack:
            future = heapq.heappop(self._jobs)[2]
            if not future.done():
                future.set_result(None)
        self._set_timer()
