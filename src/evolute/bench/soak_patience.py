"""How long has a server said nothing, of the time in which it could have?

    patience = Patience(pid, ...)         this process and others on the same machine
    async with patience.limit(seconds)    TimeoutError after so long, starvation not counted
    patience.starved_s                    since the start

On a machine that others use too, a process of low priority may get no processor for a minute. That
is nobody's fault, and neither a client's nor a server's time. Linux counts for each thread how long
it ran, and how long it was ready and did not (/proc/PID/task/TID/schedstat, nanoseconds; a wait is
counted when it ends). Elsewhere nothing is known and every second counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

LEAST_S = 0.2  # between two looks


@dataclass(frozen=True, slots=True)
class Times:
    """Of one thread since it began, in seconds."""

    ran: float
    waited: float
    is_ready: bool  # it runs or waits for a processor


Threads = dict[tuple[int, str], Times]  # by process and thread


class Patience:
    """A process starved as long as that thread of it that starved most."""

    def __init__(self, *others: int) -> None:
        self._pids = (os.getpid(), *others)
        self._first = self._last = look(self._pids)
        self._looked_s = time.monotonic()
        self._is_starving = False

    @property
    def starved_s(self) -> float:
        """All processes together."""
        self.look()
        return starved(self._first, self._last)

    def look(self) -> None:
        """From here on a limit begins to count; once a second, as it reads files of each thread."""
        now = time.monotonic()
        if now - self._looked_s >= LEAST_S:
            before, self._last, self._looked_s = self._last, look(self._pids), now
            self._is_starving = any(
                one.is_ready and one.ran == before[id].ran
                for id, one in self._last.items()
                if id in before and before[id].is_ready
            )

    @contextlib.asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[None]:
        """It lasts longer by what starved since the look before it."""
        loop, began_s, then = asyncio.get_running_loop(), time.monotonic(), self._last
        timer = loop.call_later(seconds, lambda: is_over())

        def is_over() -> None:
            nonlocal timer
            self.look()
            left = seconds - (time.monotonic() - began_s) + starved(then, self._last)
            if left <= 0 and not self._is_starving:
                timeout.reschedule(loop.time())
            else:
                timer = loop.call_later(max(left, LEAST_S), is_over)

        async with asyncio.timeout(None) as timeout:
            try:
                yield
            finally:
                timer.cancel()


def starved(then: Threads, now: Threads) -> float:
    """Seconds between two looks in which a process waited for a processor, over all processes."""
    most: dict[int, float] = {}
    for id, times in now.items():
        waited = times.waited - (then[id].waited if id in then else 0.0)
        most[id[0]] = max(most.get(id[0], 0.0), waited)
    return sum(most.values())


def look(pids: tuple[int, ...]) -> Threads:
    """Empty where the system does not tell."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):  # it may have ended
                    ran, waited, _ = (task / "schedstat").read_text().split()
                    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                    found[pid, task.name] = Times(int(ran) / 1e9, int(waited) / 1e9, state == "R")
    return found
