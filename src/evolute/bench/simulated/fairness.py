"""The fairness paper's experiments on a virtual clock, with the engine's own policies.

    serve(items, policy, hardware, pool_tokens=10_000) -> Served
    served.worst_gap(), worst_lag(), worst_neglect(), difference(), jain(), first_token_s(tenant),
    tokens_per_s(), share(tenant, a, b)

The loop is that of its artifact: admission every 10 decode steps or when nothing runs, a prefill
that makes the first token, output lengths known to the admission and to nobody else.
Service = prompt tokens + 2 output tokens (VTC, section 3.2), or another cost of the engine's.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evolute.bench.shapes.item import WorkItem
from evolute.bench.simulated.hardware import Hardware
from evolute.engine.scheduling import Policy, Sequence
from evolute.engine.scheduling.policies import Cost, Vtc
from evolute.engine.scheduling.policies.service import COSTS

ADMIT_EVERY = 10  # decode steps
MAX_PREFILL = 3072  # prompt tokens of one admission
TOKENS = COSTS["tokens"]
HALF_WINDOW_S = 30.0
WARM_UP_S = 30.0
TICK_S = 30.0


@dataclass(slots=True)
class Visit:
    """One request; seconds since the start."""

    item: WorkItem
    sequence: Sequence
    service: float  # that it asks for
    first_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Of a request whose tenant had nothing in flight, from when the scheduler was told of it to
    its admission."""

    tenant: str
    seconds: float
    service: float  # that the server gave to all meanwhile


@dataclass(slots=True)
class Served:
    """What each tenant got, and when."""

    tenants: list[str]
    times_s: list[float] = field(default_factory=list)
    service: list[list[float]] = field(default_factory=list)  # so far, by tenant
    asked: list[list[float]] = field(default_factory=list)  # the same, of what has arrived
    waiting: list[list[bool]] = field(default_factory=list)  # after that moment
    visits: list[Visit] = field(default_factory=list)
    refused: int = 0
    idled: int = 0  # admissions that ended although somebody waited who was not asked
    spread: float = 0.0  # the most by which counters of tenants that wait ever differed
    waits: list[Wait] = field(default_factory=list)

    def worst_gap(self, weights: Mapping[str, float] = MappingProxyType({})) -> float:
        """Largest difference of service, divided by the weights, between two tenants over a time
        in which both always wait."""
        divisors = [weights.get(tenant, 1.0) for tenant in self.tenants]
        service, waits = np.array(self.service) / divisors, np.array(self.waiting)
        worst = 0.0
        for f in range(len(self.tenants)):
            for g in range(f + 1, len(self.tenants)):
                gap, both = service[:, f] - service[:, g], waits[:, f] & waits[:, g]
                edges = np.flatnonzero(np.diff(np.r_[False, both, False].astype(int)))
                for start, end in zip(edges[::2], edges[1::2]):
                    worst = max(worst, float(np.ptp(gap[start:end])))
        return worst

    def worst_lag(self, weights: Mapping[str, float] = MappingProxyType({})) -> float:
        """The most by which any tenant got ahead of one that waited all that time."""
        divisors = [weights.get(tenant, 1.0) for tenant in self.tenants]
        service, waits = np.array(self.service) / divisors, np.array(self.waiting)
        worst = 0.0
        for f in range(len(self.tenants)):
            edges = np.flatnonzero(np.diff(np.r_[False, waits[:, f], False].astype(int)))
            ahead = service - service[:, f : f + 1]
            for start, end in zip(edges[::2], edges[1::2]):
                part = ahead[start:end]
                worst = max(worst, float((part - np.minimum.accumulate(part)).max()))
        return worst

    def worst_neglect(self, weights: Mapping[str, float] = MappingProxyType({})) -> float:
        """The most by which an equal part of what the server gave, while a tenant always waited,
        was more than what that tenant had asked for since it began to wait; by weight."""
        divisors = np.array([weights.get(tenant, 1.0) for tenant in self.tenants])
        start = np.zeros((1, len(self.tenants)))
        service, asked = np.r_[start, self.service], np.r_[start, self.asked] / divisors
        given, waits = service.sum(1) / divisors.sum(), np.array(self.waiting)
        worst = 0.0
        for f in range(len(self.tenants)):
            edges = np.flatnonzero(np.diff(np.r_[False, waits[:, f], False].astype(int)))
            for first, end in zip(edges[::2], edges[1::2]):  # row `first`: just before it waited
                part = slice(first, end + 1)
                behind = (given[part] - given[first]) - (asked[part, f] - asked[first, f])
                worst = max(worst, float(behind.max()))
        return worst

    def jain(self, window_s: float = 60.0) -> float:
        """Of service in windows, the mean over those in which everybody always waits; 1 is equal.
        NaN when there is none."""
        times, service, waits = map(np.array, (self.times_s, self.service, self.waiting))
        marks = np.searchsorted(times, np.arange(0.0, times[-1], window_s))
        found = []
        for start, end in itertools.pairwise(marks):
            if end > start and waits[start:end].all():
                got = service[end] - service[start]
                found.append(got.sum() ** 2 / (len(got) * (got**2).sum()))
        return statistics.fmean(found) if found else float("nan")

    def accumulated_gap(self) -> float:
        """At the end, between the tenants served most and least."""
        return max(self.service[-1]) - min(self.service[-1])

    def difference(self) -> tuple[float, float, float]:
        """Greatest, mean and variance over ticks of what tenants lack of the best served one's
        rate or of what they ask for, whichever is less (the paper's tables). NaN for a run too
        short for any."""
        end = max(v.end_s for v in self.visits)
        last = min(end, max(v.item.arrival_s for v in self.visits))
        ticks = np.arange(WARM_UP_S + HALF_WINDOW_S, last - HALF_WINDOW_S + 1e-9, TICK_S)
        lacks = []
        for tick in ticks:
            got, asked = self._rates(float(tick))
            lacks.append(float(np.minimum(got.max() - got, np.abs(asked - got)).sum()))
        if not lacks:
            return math.nan, math.nan, math.nan
        return max(lacks), statistics.fmean(lacks), statistics.pvariance(lacks)

    def first_token_s(self, tenant: str) -> float:
        """The mean, from arrival."""
        waits = [v.first_s - v.item.arrival_s for v in self.visits if v.item.tenant == tenant]
        return statistics.fmean(waits)

    def tokens_per_s(self) -> float:
        """Prompt and output tokens until the last request ended."""
        total = sum(v.sequence.prompt_len + v.sequence.max_new_tokens for v in self.visits)
        return total / max(v.end_s for v in self.visits)

    def share(self, tenant: str, start_s: float, end_s: float) -> float:
        """Of all service between two moments."""
        first, last = np.searchsorted(self.times_s, [start_s, end_s]) - 1
        got = np.array(self.service[last]) - np.array(self.service[max(first, 0)])
        return float(got[self.tenants.index(tenant)] / got.sum())

    def _rates(self, tick: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Service got and asked for per second, in the window around a moment. What a request
        got counts as spread evenly from its first token to its end."""
        got, asked = np.zeros(len(self.tenants)), np.zeros(len(self.tenants))
        low, high = tick - HALF_WINDOW_S, tick + HALF_WINDOW_S
        for visit in self.visits:
            which = self.tenants.index(visit.item.tenant)
            if low <= visit.item.arrival_s < high:
                asked[which] += visit.service
            inside = min(visit.end_s, high) - max(visit.first_s, low)
            length = max(visit.end_s - visit.first_s, 1e-9)
            if inside > 0:
                got[which] += visit.service * min(inside / length, 1.0)
        return got / (high - low), asked / (high - low)


def serve(
    items: Iterable[WorkItem],
    policy: Policy,
    hardware: Hardware,
    *,
    pool_tokens: int = 10_000,
    admit_every: int = ADMIT_EVERY,
    per_minute: int | None = None,
    until_s: float = float("inf"),
    cost: Cost = TOKENS,
) -> Served:
    """Serve all, or until `until_s`. `per_minute`: what a tenant sends beyond is refused."""
    run = _Run(items, policy, hardware, pool_tokens, admit_every, per_minute, cost)
    return run.serve(until_s)


# -- internals ---------------------------------------------------------------


class _Run:
    def __init__(
        self,
        items: Iterable[WorkItem],
        policy: Policy,
        hardware: Hardware,
        pool_tokens: int,
        admit_every: int,
        per_minute: int | None,
        cost: Cost,
    ) -> None:
        self.items = deque(sorted(items, key=lambda item: item.arrival_s))
        self.policy, self.hardware, self.pool_tokens = policy, hardware, pool_tokens
        self.admit_every, self.per_minute, self.cost = admit_every, per_minute, cost
        self.now, self.running = 0.0, dict[Sequence, Visit]()
        self.waiting: dict[Sequence, Visit] = {}
        self.served = Served(sorted({item.tenant for item in self.items}))
        self.total = dict.fromkeys(self.served.tenants, 0.0)
        self.sent: dict[str, deque[float]] = {t: deque() for t in self.served.tenants}
        self.asked = dict.fromkeys(self.served.tenants, 0.0)
        self.in_queue = dict.fromkeys(self.served.tenants, 0)
        self.in_flight = dict.fromkeys(self.served.tenants, 0)
        self.fresh: dict[Sequence, tuple[float, float]] = {}  # moment, and all service so far

    def serve(self, until_s: float) -> Served:
        steps = 0
        while (self.items or self.running or self.waiting) and self.now < until_s:
            self._arrive()
            if not self.running and not self.waiting:
                self.now = self.items[0].arrival_s
                continue
            if not self.running or steps >= self.admit_every:
                self._admit()
                steps = 0
            if self.running:
                self._decode()
                steps += 1
            self._note()
        return self.served

    def _arrive(self) -> None:
        while self.items and self.items[0].arrival_s <= self.now:
            item = self.items.popleft()
            if self._is_over_limit(item):
                self.served.refused += 1
                continue
            number = len(self.waiting) + len(self.running) + len(self.served.visits)
            tokens = [0] * len(item.prompt)
            sequence = Sequence(
                number, len(tokens), tokens, item.max_new_tokens, tenant=item.tenant
            )
            asked = self.cost.of_prompt(len(tokens))
            asked += self.cost.of_output(len(tokens), 0, item.max_new_tokens)
            self.waiting[sequence] = Visit(item, sequence, asked)
            if not self.in_flight[item.tenant]:
                self.fresh[sequence] = self.now, sum(self.total.values())
            self.asked[item.tenant] += asked
            self.in_queue[item.tenant] += 1
            self.in_flight[item.tenant] += 1
            self.policy.push(sequence)
            self._compare_counters()

    def _is_over_limit(self, item: WorkItem) -> bool:
        if self.per_minute is None:
            return False
        sent = self.sent[item.tenant]
        while sent and sent[0] <= item.arrival_s - 60:
            sent.popleft()
        if len(sent) >= self.per_minute:
            return True
        sent.append(item.arrival_s)
        return False

    def _admit(self) -> None:
        admitted: list[Sequence] = []
        tokens = 0
        for sequence in self.policy.order(lambda s: 0, admitted):
            if tokens + sequence.prompt_len > MAX_PREFILL or not self._fits(sequence, admitted):
                break
            admitted.append(sequence)
            tokens += sequence.prompt_len
        else:
            self.served.idled += len(admitted) < len(self.waiting)
        if not admitted:
            return
        for sequence in admitted:
            self.policy.admit(sequence, 0)
            sequence.num_cached = 0
            if sequence in self.fresh:
                since, service = self.fresh.pop(sequence)
                given = sum(self.total.values()) - service
                self.served.waits.append(Wait(sequence.tenant, self.now - since, given))
        self._compare_counters()
        self.now += self.hardware.prefill_s(tokens, ())
        for sequence in admitted:
            visit = self.running[sequence] = self.waiting.pop(sequence)
            self.in_queue[sequence.tenant] -= 1
            visit.first_s = self.now
            self.total[sequence.tenant] += self.cost.of_prompt(sequence.prompt_len)
            self._make_token(sequence)

    def _fits(self, newcomer: Sequence, admitted: list[Sequence]) -> bool:
        """Whether the most that all hold at once, if each runs to its end, stays in the pool."""
        together = [*self.running, *admitted, newcomer]
        rows = [
            (s.num_tokens + (s.num_generated == 0), s.max_new_tokens - max(s.num_generated, 1))
            for s in together
        ]
        rows.sort(key=lambda row: -row[1])
        held = most = 0
        for count, (now, left) in enumerate(rows, 1):
            held += now
            most = max(most, left * count + held)
        return most < self.pool_tokens

    def _decode(self) -> None:
        context = sum(s.num_tokens for s in self.running)
        self.now += self.hardware.decode_s(len(self.running), context, (), 0.0)
        for sequence in list(self.running):
            if sequence.num_generated < sequence.max_new_tokens:
                self._make_token(sequence)
        for sequence in [s for s in self.running if s.num_generated >= s.max_new_tokens]:
            visit = self.running.pop(sequence)
            visit.end_s = self.now
            self.policy.finish(sequence)
            self.in_flight[sequence.tenant] -= 1
            self.served.visits.append(visit)

    def _make_token(self, sequence: Sequence) -> None:
        sequence.tokens.append(0)
        sequence.num_computed = sequence.num_tokens - 1
        made = sequence.num_generated
        self.total[sequence.tenant] += self.cost.of_output(sequence.prompt_len, made - 1, made)
        self.policy.made(sequence)

    def _note(self) -> None:
        served = self.served
        served.times_s.append(self.now)
        served.service.append(list(self.total.values()))
        served.asked.append(list(self.asked.values()))
        self._compare_counters()
        served.waiting.append([self.in_queue[t] > 0 for t in served.tenants])

    def _compare_counters(self) -> None:
        if isinstance(self.policy, Vtc):
            counters = [a.counter for a in self.policy.ledger.accounts.values() if a.waiting]
            if counters:
                spread = max(counters) - min(counters)
                self.served.spread = max(self.served.spread, spread)
