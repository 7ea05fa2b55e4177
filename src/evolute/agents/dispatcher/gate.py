"""Who may be inside at once, and who goes in next?

    gate = Gate("run", 4, rank)
    await gate.enter(ticket)      waits while `limit` are inside
    gate.leave()

Among those who wait, the group of the lowest rank goes first; within a rank, who came first.
Invariants: inside <= limit; nobody waits while there is room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

Rank = Callable[[Hashable], float]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One trajectory: its number in the order of arrival, and the group that it belongs to."""

    number: int
    group: Hashable
    name: str = ""


class Gate:
    """`limit` 0 lets everybody in."""

    def __init__(self, name: str, limit: int, rank: Rank) -> None:
        self.name, self.limit, self._rank = name, limit, rank
        self.inside = self.peak_inside = self.peak_waiting = 0
        self._waiting: dict[Hashable, deque[tuple[Ticket, asyncio.Future[None]]]] = {}
        self.waiting = 0

    async def enter(self, ticket: Ticket) -> None:
        """Cancelled while it waits, nobody has entered."""
        if not self.limit or (self.inside < self.limit and not self.waiting):
            self._admit()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (ticket, future)
        self._waiting.setdefault(ticket.group, deque()).append(entry)
        self.waiting += 1
        self.peak_waiting = max(self.peak_waiting, self.waiting)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was let in at that very moment
                self.leave()
            else:
                self._forget(entry)
            raise

    def leave(self) -> None:
        assert self.inside > 0, f"nobody is inside {self.name}"
        self.inside -= 1
        while self.waiting and self.inside < self.limit:
            _, future = self._next()
            if future.done():  # cancelled, and its task has not run since
                continue
            self._admit()
            future.set_result(None)

    def names_waiting(self) -> list[str]:
        return [ticket.name for queue in self._waiting.values() for ticket, _ in queue]

    # -- internals ---------------------------------------------------------------

    def _admit(self) -> None:
        self.inside += 1
        self.peak_inside = max(self.peak_inside, self.inside)

    def _next(self) -> tuple[Ticket, asyncio.Future[None]]:
        group = min(
            self._waiting, key=lambda each: (self._rank(each), self._waiting[each][0][0].number)
        )
        entry = self._waiting[group].popleft()
        self._drop_if_empty(group)
        self.waiting -= 1
        return entry

    def _forget(self, entry: tuple[Ticket, asyncio.Future[None]]) -> None:
        group = entry[0].group
        if entry not in self._waiting.get(group, ()):  # `leave` has passed over it
            return
        self._waiting[group].remove(entry)
        self._drop_if_empty(group)
        self.waiting -= 1

    def _drop_if_empty(self, group: Hashable) -> None:
        if not self._waiting[group]:
            del self._waiting[group]
