"""S-LoRA's serving loop on a virtual clock (Sheng et al. 2023).

    simulate(trace, hardware, policy="fcfs") -> Report

Admission every 10 steps, or when nothing runs: a request may come in when the largest number of
tokens that all admitted ones can hold at once stays below the pool less the adapters in use.
Output lengths are taken as known, as its artifact does. Policies order the queue, and may drop;
what is early, late or of the batch's kind is decided by the engine's own classes:

    fcfs     arrival order                                  lifo     newest first
    abort    drop the late, newest first under overload     area     drop the late, least keys first
    clusterN arrival order, but with N adapters running those of the batch go first
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from evolute.bench.simulated.hardware import Hardware
from evolute.bench.simulated.traces import Request
from evolute.engine.scheduling.clustering import Clustering
from evolute.engine.scheduling.deadlines import Deadlines, Overload

ADMIT_EVERY = 10  # steps
SLO_S = 6.0  # to the first token
PATIENCE_S = 0.5  # a request this near to the deadline is late
MIN_PROMPT_TOKENS = 3072  # a prefill takes at least so many, or a sixth of the pool


@dataclass(frozen=True, slots=True)
class Report:
    """Over all requests of a trace; what was dropped never got its first token."""

    requests_per_s: float
    first_token_s: float
    latency_s: float
    attainment: float  # first token within 6 s
    satisfaction: float  # 1 - (t / 6)^2 of those
    loads: int


@dataclass(slots=True)
class State:
    """What a policy may look at."""

    now_s: float = 0.0
    running: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    deadlines: Deadlines[int] = field(default_factory=Deadlines)  # by id(request)
    overload: Overload = field(default_factory=Overload)


Policy = Callable[[State], Iterable[Request]]


def simulate(trace: list[Request], hardware: Hardware, policy: str = "fcfs") -> Report:
    """Serve the whole trace; the requests are changed. Raises KeyError for an unknown policy."""
    if policy.startswith("cluster"):
        order = _cluster(int(policy.removeprefix("cluster")))
    else:
        order = POLICIES[policy]
    run = _Run(trace, hardware, order)
    run.serve()
    return _report(trace, run.state.now_s, run.loads)


# -- internals ---------------------------------------------------------------


def _fcfs(state: State) -> list[Request]:
    return list(state.waiting)


def _lifo(state: State) -> list[Request]:
    return state.waiting[::-1]


def _abort(state: State) -> list[Request]:
    is_overload = state.overload.look(len(state.waiting))
    _drop_late(state)
    return state.waiting[::-1] if is_overload else list(state.waiting)


def _area(state: State) -> list[Request]:
    _drop_late(state)
    return sorted(state.waiting, key=lambda request: request.area)


def _cluster(limit: int) -> Policy:
    def order(state: State) -> Iterator[Request]:
        here = {request.adapter for request in state.running if request.rank}
        clustering = Clustering(limit, here)
        taken: set[int] = set()

        def turns() -> Iterator[Request]:
            return (r for r in state.waiting if id(r) not in taken)

        for request in clustering.order(turns, lambda r: r.adapter, lambda r: r.passed_over):
            taken.add(id(request))
            yield request
            clustering.take(request.adapter)  # whoever is not admitted ends the admission

    return order


def _drop_late(state: State) -> None:
    late = set(state.deadlines.late(state.now_s, lambda _: PATIENCE_S, PATIENCE_S))
    if late:
        state.waiting = [r for r in state.waiting if id(r) not in late]


POLICIES: dict[str, Policy] = {"fcfs": _fcfs, "lifo": _lifo, "abort": _abort, "area": _area}


class _Run:
    """One trace on one machine."""

    def __init__(self, trace: list[Request], hardware: Hardware, order: Policy) -> None:
        self.trace, self.hardware, self.order = trace, hardware, order
        self.state, self.resident, self.loads = State(), set[int](), 0
        self.most_tokens = max(hardware.pool_tokens // 6, MIN_PROMPT_TOKENS)

    def serve(self) -> None:
        state, came, steps = self.state, 0, 0
        while came < len(self.trace) or state.running or state.waiting:
            while came < len(self.trace) and self.trace[came].arrival_s <= state.now_s:
                state.waiting.append(self.trace[came])
                state.deadlines.add(id(self.trace[came]), self.trace[came].arrival_s + SLO_S)
                came += 1
            if not state.running and not state.waiting:
                state.now_s = self.trace[came].arrival_s
                continue
            if not state.running or steps >= ADMIT_EVERY:
                steps = 0
                self._admit()
            if state.running:
                steps += 1
                self._decode()

    def _admit(self) -> None:
        state, hardware = self.state, self.hardware
        if not state.waiting:
            return
        chosen: list[Request] = []
        for request in self.order(state):
            tokens = sum(r.prompt for r in chosen) + request.prompt
            if tokens > self.most_tokens or not self._fits([*state.running, *chosen], request):
                break
            chosen.append(request)
        if not chosen:
            return
        self._take(chosen)
        new = {r.adapter: r.rank for r in chosen if r.rank and r.adapter not in self.resident}
        self.loads += len(new)
        ranks = [r.rank for r in chosen if r.rank]
        state.now_s += hardware.load_s(list(new.values()), len(state.running))
        state.now_s += hardware.prefill_s(sum(r.prompt for r in chosen), ranks)
        for request in chosen:
            request.first_token_s = state.now_s - request.arrival_s
            request.made = 1
        state.running += chosen
        self.resident |= new.keys()

    def _take(self, chosen: list[Request]) -> None:
        """Out of the queue; those before the last of them that stay were passed over."""
        state, gone = self.state, set(map(id, chosen))
        passed = 0
        for request in reversed(state.waiting):
            if id(request) in gone:
                passed += 1
                state.deadlines.drop(id(request))
            else:
                request.passed_over += passed
        state.waiting = [r for r in state.waiting if id(r) not in gone]
        state.overload.admitted(len(chosen), len(state.waiting))

    def _fits(self, running: list[Request], request: Request) -> bool:
        """Whether the peak of all tokens, each running to its end, stays within the pool."""
        context = np.array([*(r.context for r in running), request.prompt + 1])
        remaining = np.array([*(r.remaining - 1 for r in running), request.output - 1])
        order = np.argsort(-remaining, kind="stable")
        held, left = np.cumsum(context[order]), remaining[order]
        peak = int((left * np.arange(1, len(left) + 1) + held).max())
        adapters = {r.adapter: r.rank for r in [*running, request] if r.rank}
        cells = sum(map(self.hardware.cells, adapters.values()))
        pool, static = self.hardware.pool_tokens, self.hardware.static_cells
        if static is None:
            return peak < pool - cells
        return peak < pool - static and cells <= static

    def _decode(self) -> None:
        state, hardware = self.state, self.hardware
        running = state.running
        ranks = [r.rank for r in running if r.rank]
        distinct = {r.adapter: r.rank for r in running if r.rank}
        state.now_s += hardware.decode_s(
            len(running),
            sum(r.context for r in running),
            ranks,
            sum(map(hardware.adapter_bytes, distinct.values())),
        )
        for request in running:
            request.made += 1
            if request.made >= request.output:
                request.latency_s = state.now_s - request.arrival_s
        state.running = [r for r in running if r.made < r.output]
        if len(state.running) < len(running):
            self.resident = {r.adapter for r in state.running}


def _report(trace: list[Request], ended_s: float, loads: int) -> Report:
    first = [r.first_token_s for r in trace if r.first_token_s is not None]
    latency = [r.latency_s for r in trace if r.latency_s is not None]
    met = [t for t in first if t < SLO_S]
    return Report(
        requests_per_s=len(latency) / ended_s,
        first_token_s=statistics.mean(first),
        latency_s=statistics.mean(latency),
        attainment=len(met) / len(trace),
        satisfaction=sum(1 - (t / SLO_S) ** 2 for t in met) / len(trace),
        loads=loads,
    )
