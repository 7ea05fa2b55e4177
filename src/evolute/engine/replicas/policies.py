"""Which replica gets a request? Policies that know no tenants, and what all policies see.

    RoundRobin     in turn
    LeastLoaded    the least service in flight
    CacheAware     the longest cached prefix, unless the loads are out of balance
    Sticky         where the session was before, unless that is too busy; new ones where least is

The fair one is in `deficits.py`. A policy sees numbers and returns a choice: no clock, no Ray.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

IMBALANCE = 32  # requests in flight that the busiest may be ahead of the least busy
IMBALANCE_RATIO = 1.5  # and this many times as many
SESSIONS = 65_536  # whose replica is remembered, those that were used last
MATCHED = 0.5  # of a prompt, for a prefix to count


@dataclass(frozen=True, slots=True)
class Candidate:
    """One living replica, as a policy sees it for one request."""

    replica: int
    cached_tokens: int  # of the prompt, probably
    price: float  # service that the request would be charged here
    load: float  # service charged to what is in flight
    in_flight: int  # sequences
    is_open: bool  # it could begin at once
    session: str = ""  # of the request; the same for all candidates


@dataclass(frozen=True, slots=True)
class Choice:
    """`is_charged`: it counts against the tenant's deficit there."""

    replica: int
    is_charged: bool = False


class RoutingPolicy(Protocol):
    """Chooses among candidates, of which there is at least one."""

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice: ...

    def charge(self, tenant: str, replica: int, service: float) -> None:
        """Service committed there, or (below 0) given back."""

    def ended(self, tenant: str) -> None:
        """One of its requests is no longer in flight."""

    def add(self, replica: int) -> None: ...
    def remove(self, replica: int) -> None: ...


class LeastLoaded:
    """The least service in flight."""

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice:
        return Choice(least_loaded(candidates).replica)

    def charge(self, tenant: str, replica: int, service: float) -> None:
        pass

    def ended(self, tenant: str) -> None:
        pass

    def add(self, replica: int) -> None:
        pass

    def remove(self, replica: int) -> None:
        pass


class RoundRobin(LeastLoaded):
    """Each gets as many requests as the others, whatever they are."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice:
        replicas = sorted(candidate.replica for candidate in candidates)
        self._last = next((r for r in replicas if r > self._last), replicas[0])
        return Choice(self._last)


class CacheAware(LeastLoaded):
    """The longest prefix if it is much of the prompt and loads are balanced; else least load.

    After the router of SGLang v0.4, with constants of our own.
    """

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice:
        best = longest_prefix(candidates)
        is_known = best.cached_tokens > MATCHED * num_prompt
        if is_known and not _is_out_of_balance(candidates):
            return Choice(best.replica)
        return Choice(least_loaded(candidates).replica)


class Sticky(LeastLoaded):
    """A session stays where its first request went, for the sake of its prefix, until that replica
    is more than `slack` requests ahead of the least busy one, or dies. New sessions, and requests
    without one, go to the least busy, among equals at random: always the first of them would be
    the busiest soon (torchtitan #4109; verl #6533 for what stickiness without a bound does)."""

    def __init__(self, slack: int, seed: int = 0) -> None:
        self._slack, self._dice = slack, random.Random(seed)
        self._homes: OrderedDict[str, int] = OrderedDict()

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice:
        session, least = candidates[0].session, min(c.in_flight for c in candidates)
        home = next((c for c in candidates if c.replica == self._homes.get(session)), None)
        if home is None or home.in_flight - least > self._slack:
            equals = [c for c in candidates if c.in_flight == least]
            home = self._dice.choice(sorted(equals, key=lambda c: c.replica))
        if session:
            self._homes[session] = home.replica
            self._homes.move_to_end(session)
            if len(self._homes) > SESSIONS:
                self._homes.popitem(last=False)
        return Choice(home.replica)

    def remove(self, replica: int) -> None:
        for session in [s for s, home in self._homes.items() if home == replica]:
            del self._homes[session]


def least_loaded(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda c: (c.load, c.in_flight, c.replica))


def longest_prefix(candidates: Sequence[Candidate]) -> Candidate:
    """Of equally long ones the least loaded."""
    return min(candidates, key=lambda c: (-c.cached_tokens, c.load, c.in_flight, c.replica))


def _is_out_of_balance(candidates: Sequence[Candidate]) -> bool:
    counts = [candidate.in_flight for candidate in candidates]
    most, least = max(counts), min(counts)
    return most - least > IMBALANCE and most > IMBALANCE_RATIO * least
