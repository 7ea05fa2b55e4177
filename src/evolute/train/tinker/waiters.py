"""Who is told that a future has ended?

await waiters.wait(id, timeout_s) -> whether it was told of in time
waiters.tell(ids)                     from any thread
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable


class Waiters:
    """Event loops may differ; a future may have several that wait, or none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]]
        self._waiting = defaultdict(set)

    async def wait(self, id: str, timeout_s: float, is_done: asyncio.Event | None = None) -> bool:
        """False when nothing was told in time."""
        event = is_done or self.register(id)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._forget(id, event)

    def register(self, id: str) -> asyncio.Event:
        """An event that will be set; register before looking, and nothing is missed."""
        event = asyncio.Event()
        with self._lock:
            self._waiting[id].add((asyncio.get_running_loop(), event))
        return event

    def tell(self, ids: Iterable[str]) -> None:
        with self._lock:
            told = [pair for id in ids for pair in self._waiting.pop(id, ())]
        for loop, event in told:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def _forget(self, id: str, event: asyncio.Event) -> None:
        with self._lock:
            left = {pair for pair in self._waiting.get(id, ()) if pair[1] is not event}
            if left:
                self._waiting[id] = left
            else:
                self._waiting.pop(id, None)
