"""How many groups may be in flight, given how the engine copes?

    cap = InFlightCap(low, high, burst)
    cap.room(running)                 groups that may begin now
    cap.begun()                       one did
    cap.look(pressure, running)       at each look; returns how many of the youngest to cancel

Additive increase, multiplicative decrease, on what the engine itself says: a preemption means that
memory did not suffice, a queue longer than what runs that more would only wait. Refills between
two looks are limited to `burst`. Overload at two looks in a row cancels the youngest groups, which
have the least to lose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHRINK = 0.75
GROWTH = 8  # an eighth more at each quiet look


@dataclass(frozen=True, slots=True)
class Pressure:
    """What an engine says of itself: requests that run and wait, preemptions since its start."""

    running: int = 0
    waiting: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class InFlightCap:
    """Groups in flight lie in [low, high]; `cap` is the bound in force."""

    low: int
    high: int
    burst: int
    cap: int = field(init=False)
    _left: int = field(init=False)  # of the burst
    _seen: int | None = field(default=None, init=False)  # preemptions at the last look
    _overloaded: int = field(default=0, init=False)  # looks in a row

    def __post_init__(self) -> None:
        self.cap, self._left = self.high, self.burst

    def room(self, running: int) -> int:
        """Groups that may begin now."""
        return max(0, min(self.cap - running, self._left))

    def begun(self) -> None:
        self._left -= 1

    def look(self, pressure: Pressure, running: int) -> int:
        """Set the cap by the engine's state; returns how many groups to cancel."""
        seen, self._seen = self._seen, pressure.preemptions
        self._left = self.burst
        if seen is not None and pressure.preemptions > seen:
            self._overloaded += 1
            self.cap = max(self.low, int(min(self.cap, max(running, self.low)) * SHRINK))
            return max(0, running - self.cap) if self._overloaded > 1 else 0
        self._overloaded = 0
        if pressure.waiting <= pressure.running:
            self.cap = min(self.high, self.cap + max(1, self.cap // GROWTH))
        return 0
