"""How long does an engine take for what it was given? Processor sharing on the loop's clock.

    engine = SimulatedEngine(stream_tokens_s, tokens_s, max_running)
    segments = await engine.generate(tokens)     runs of tokens by version of the weights
    engine.pause(), resume(version)
    engine.load(), engine.busy_s(), engine.served

All that runs has one rate: min(stream_tokens_s, tokens_s / running). So the work done for a
sequence, in tokens, is the same for all; a sequence ends when the common counter has advanced by
its length. Others wait in the order of their arrival.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from evolute.train.control.cap import Pressure
from evolute.types import VersionSegment


@dataclass(order=True, slots=True)
class _Sequence:
    ends: float  # value of the counter
    order: int
    begins: float = field(compare=False)
    version: int = field(compare=False)  # index into the changes
    done: asyncio.Future[None] = field(compare=False)


class SimulatedEngine:
    """Belongs to one event loop."""

    def __init__(self, stream_tokens_s: float, tokens_s: float, max_running: int) -> None:
        self._stream, self._total, self._max = stream_tokens_s, tokens_s, max_running
        self._running: list[_Sequence] = []
        self._waiting: deque[tuple[float, asyncio.Future[_Sequence]]] = deque()
        self._work = 0.0  # tokens that each running sequence has had since the start
        self._at_s = self._busy_s = self.served = 0.0
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._order = itertools.count()
        self._changes: list[tuple[float, int]] = [(0.0, 0)]  # counter, version from there on

    async def generate(self, tokens: float) -> tuple[VersionSegment, ...]:
        """Sample so many tokens. Cancelling frees the place."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[_Sequence] = loop.create_future()
        self._waiting.append((max(tokens, 1.0), place))
        self._settle()
        try:
            sequence = await place
            await sequence.done
        except asyncio.CancelledError:
            self._give_up(place)
            raise
        return self._segments(sequence)

    def pause(self) -> None:
        self._advance()
        self._is_paused = True
        self._set_timer()

    def resume(self, version: int) -> None:
        """Go on where everything stood, with these weights."""
        self._advance()
        self._is_paused = False
        self._changes.append((self._work, version))
        self._settle()

    def load(self) -> Pressure:
        return Pressure(len(self._running), len(self._waiting))

    def busy_s(self) -> float:
        """Seconds in which at least one sequence ran."""
        self._advance()
        return self._busy_s

    # -- internals ---------------------------------------------------------------

    def _rate(self) -> float:
        return min(self._stream, self._total / len(self._running))

    def _advance(self) -> None:
        """Bring the counter to now."""
        now_s = asyncio.get_running_loop().time()
        if self._running and not self._is_paused:
            spent_s = now_s - self._at_s
            self._work += spent_s * self._rate()
            self.served += spent_s * self._rate() * len(self._running)
            self._busy_s += spent_s
        self._at_s = now_s

    def _settle(self) -> None:
        """End what has had its tokens, begin what waits, and look again at the next end."""
        self._advance()
        slack = 1e-9 * max(self._work, 1.0)
        while self._running and self._running[0].ends <= self._work + slack:
            done = heapq.heappop(self._running).done
            if not done.done():
                done.set_result(None)
        while self._waiting and len(self._running) < self._max and not self._is_paused:
            tokens, place = self._waiting.popleft()
            if not place.done():
                place.set_result(self._begin(tokens))
        self._set_timer()

    def _begin(self, tokens: float) -> _Sequence:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ends, order = self._work + tokens, next(self._order)
        sequence = _Sequence(ends, order, self._work, len(self._changes) - 1, done)
        heapq.heappush(self._running, sequence)
        return sequence

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running and not self._is_paused:
            left_s = max(0.0, self._running[0].ends - self._work) / self._rate()
            self._timer = asyncio.get_running_loop().call_later(left_s, self._settle)

    def _give_up(self, place: asyncio.Future[_Sequence]) -> None:
        self._advance()
        if place.done() and not place.cancelled() and place.result() in self._running:
            self._running.remove(place.result())
            heapq.heapify(self._running)
        self._settle()

    def _segments(self, sequence: _Sequence) -> tuple[VersionSegment, ...]:
        marks = self._changes[sequence.version :]
        found = []
        for i, (begins, version) in enumerate(marks):
            until = marks[i + 1][0] if i + 1 < len(marks) else sequence.ends
            low, high = max(begins, sequence.begins), min(until, sequence.ends)
            if count := round(high) - round(low):
                found.append(VersionSegment(version, count))
        return tuple(found)
