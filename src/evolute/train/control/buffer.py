"""Which groups are in flight or wait for the trainer, and has each episode left exactly once?

    buffer = Buffer(bound)
    buffer.begun(row, size); .played(row); .ended(group); .cancelled(row)
    await buffer.take()          finished groups, in the order of their ends
    buffer.check(empty=True)     TrainingError unless the accounts agree

Emit everything: each episode that was dispatched leaves as a result of its group, or within the one
cancellation of its group. Nothing else can happen to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from evolute.train.control.groups import Group, Key, Row
from evolute.types import TrainingError


@dataclass(slots=True)
class _InFlight:
    row: Row
    size: int
    num_played: int = 0


class Buffer:
    """Groups between dispatch and training; at most `bound` of them are finished and wait."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._in_flight: dict[Key, _InFlight] = {}  # in the order of dispatch
        self._finished: deque[Group] = deque()
        self._news = asyncio.Event()
        self.num_dispatched = self.num_returned = self.num_cancelled = 0  # episodes

    def __len__(self) -> int:
        return len(self._finished)

    @property
    def in_flight(self) -> list[Row]:
        """Rows in the order in which they began."""
        return [group.row for group in self._in_flight.values()]

    def begun(self, row: Row, size: int) -> None:
        """A group of `size` episodes was dispatched."""
        if row.key in self._in_flight:
            raise TrainingError(f"row {row.number} was dispatched twice at once.")
        self._in_flight[row.key] = _InFlight(row, size)
        self.num_dispatched += size

    def played(self, row: Row) -> None:
        """One of its episodes came to its end."""
        self._in_flight[row.key].num_played += 1

    def ended(self, group: Group) -> None:
        """All of them did: the group waits for the trainer."""
        one = self._in_flight.pop(group.row.key)
        if one.num_played != one.size or len(group.rollouts) != one.size:
            raise TrainingError(
                f"row {group.row.number} ended with {one.num_played} of {one.size} episodes."
            )
        self.num_returned += one.size
        self.add(group)

    def cancelled(self, row: Row) -> int:
        """The group was given up as a whole; returns how many of its episodes had ended."""
        one = self._in_flight.pop(row.key)
        self.num_cancelled += one.size
        return one.num_played

    def add(self, group: Group) -> None:
        """A finished group, just ended or found in the journal of a killed run."""
        if len(self._finished) >= self._bound:
            raise TrainingError(f"more than {self._bound} finished groups wait for the trainer.")
        self._finished.append(group)
        self._news.set()

    async def take(self) -> Group:
        """The group that ended first."""
        while not self._finished:
            self._news.clear()
            await self._news.wait()
        return self._finished.popleft()

    def check(self, *, empty: bool = False) -> None:
        """Raise TrainingError unless every episode is accounted for once."""
        left = self.num_returned + self.num_cancelled
        flying = sum(group.size for group in self._in_flight.values())
        if self.num_dispatched != left + flying or (empty and flying):
            raise TrainingError(
                f"episodes do not add up: {self.num_dispatched} dispatched, {self.num_returned} "
                f"returned, {self.num_cancelled} cancelled, {flying} in flight."
            )
