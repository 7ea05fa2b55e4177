"""Replicas behind a router on a virtual clock, with the engine's own scheduling and memory.

    run_fleet(arrivals, settings, routing, num_replicas) -> FleetRun
    shared_prefixes(...), one_hot_prefix(...)      arrivals whose prompts begin alike
    fleet_bound(...)                               of run.worst_gap(), under d2lpm over dlpm

All replicas make their steps at the same time, and time is the number of steps. Service is prompt
tokens to be computed, from admission on, and twice the tokens made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from evolute.engine.replicas.config import ReplicaConfig
from evolute.engine.replicas.router import Made, Router, Ticket, make_policy
from evolute.engine.scheduling import Arrival, Sequence, SimulatedEngine, SimulationSettings
from evolute.engine.scheduling.policies.service import COSTS
from evolute.types import GenerateRequest, SamplingParams

PROMPT, OUTPUT = COSTS["tokens"].prompt, COSTS["tokens"].output
MAX_STEPS = 1_000_000


@dataclass(slots=True)
class FleetRun:
    """What happened. Lists by step have an entry after each of them."""

    num_replicas: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    num_steps: int = 0
    routed: list[int] = field(default_factory=list)  # replica of each arrival
    sent_to_wait: int = 0  # to a replica that was full, while another was not
    idle_steps: int = 0  # of a replica, while a request waited at another
    busy_steps: int = 0  # of a replica
    worst_spread: float = 0.0  # of what one tenant was charged at two replicas
    service: list[dict[str, float]] = field(default_factory=list)  # so far, by step and tenant
    waiting: list[frozenset[str]] = field(default_factory=list)  # tenants that wait everywhere

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / self.prompt_tokens

    def worst_gap(self) -> float:
        """Largest difference of service between two tenants over a time in which both always wait
        at every replica."""
        worst, start = 0.0, dict[tuple[str, str], tuple[float, float]]()
        tenants = sorted(self.service[-1])
        for waiting, served in zip(self.waiting, self.service):
            for i, f in enumerate(tenants):
                for g in tenants[i + 1 :]:
                    if f not in waiting or g not in waiting:
                        start.pop((f, g), None)
                        continue
                    gap = served.get(f, 0.0) - served.get(g, 0.0)
                    low, high = start.get((f, g), (gap, gap))
                    start[f, g] = (min(low, gap), max(high, gap))
                    worst = max(worst, gap - low, high - gap)
        return worst


def run_fleet(
    arrivals: Items[Arrival],
    settings: SimulationSettings,
    routing: ReplicaConfig,
) -> FleetRun:
    """Serve all arrivals to their end."""
    return _Fleet(arrivals, settings, routing).run()


def fleet_bound(settings: SimulationSettings, num_replicas: int, longest: int) -> float:
    """2 R (U + Q) with U = w_p L + w_q M, for prompts up to `longest`."""
    pool = settings.num_pages * settings.page_size
    return 2 * num_replicas * (settings.quantum + PROMPT * longest + OUTPUT * pool)


def shared_prefixes(
    *,
    groups: int,
    each: int,
    prefix: int,
    unique: int,
    output: int,
    per_step: float,
    tenants: int = 1,
    seed: int = 0,
) -> list[Arrival]:
    """`groups` prefixes, `each` requests of them in random order; group g is of tenant g mod
    `tenants`."""
    draw = random.Random(seed)
    heads = [tuple(draw.choices(range(1000), k=prefix)) for _ in range(groups)]
    order = [group for group in range(groups) for _ in range(each)]
    draw.shuffle(order)
    return [
        Arrival(
            int(i / per_step),
            heads[group] + tuple(draw.choices(range(1000), k=unique)),
            output,
            tenant=f"t{group % tenants}",
        )
        for i, group in enumerate(order)
    ]


def one_hot_prefix(
    *, count: int, hot: float, prefix: int, unique: int, output: int, per_step: float, seed: int = 0
) -> list[Arrival]:
    """A part `hot` of all requests begins alike, the others with something of their own."""
    draw = random.Random(seed)
    head = tuple(draw.choices(range(1000), k=prefix))
    found = []
    for i in range(count):
        is_hot = draw.random() < hot
        start = head if is_hot else tuple(draw.choices(range(1000), k=prefix))
        prompt = start + tuple(draw.choices(range(1000), k=unique))
        found.append(Arrival(int(i / per_step), prompt, output, tenant="hot" if is_hot else "cold"))
    return found


# -- internals ---------------------------------------------------------------


class _Fleet:
    def __init__(
        self, arrivals: Items[Arrival], settings: SimulationSettings, routing: ReplicaConfig
    ) -> None:
        self.coming = list(enumerate(arrivals))[::-1]
        self.engines = [SimulatedEngine(settings) for _ in range(routing.count)]
        self.router = Router(make_policy(routing), settings.page_size)
        cache = settings.num_pages * settings.page_size
        for replica in range(routing.count):
            self.router.add(replica, places=settings.max_running, room=2**31, cache_tokens=cache)
        self.tickets: dict[Sequence, Ticket] = {}
        self.charged: dict[str, list[float]] = {}
        self.ended: dict[str, float] = {}  # service of what has ended
        self.run_ = FleetRun(routing.count)

    def run(self) -> FleetRun:
        run, now = self.run_, 0
        while self.coming or self.tickets:
            while self.coming and self.coming[-1][1].step <= now:
                self._send(*self.coming.pop())
            self._note_idle()
            for engine in self.engines:
                self._end(engine.step()[2])
            self._note()
            now += 1
            assert now < MAX_STEPS, "the fleet does not come to an end"
        run.num_steps = now
        for engine in self.engines:
            engine.placement.check()
        return run

    def _send(self, number: int, arrival: Arrival) -> None:
        sampling = SamplingParams(max_new_tokens=arrival.max_new_tokens)
        request = GenerateRequest(arrival.prompt, sampling, tenant=arrival.tenant, id=str(number))
        loads = self.router.loads.values()
        has_open = any(load.in_flight < load.places for load in loads)
        ticket = self.router.route(request)
        assert ticket is not None
        load = self.router.loads[ticket.replica]
        self.run_.sent_to_wait += has_open and load.in_flight > load.places
        self.run_.routed.append(ticket.replica)
        sequence = Sequence(
            number,
            len(arrival.prompt),
            list(arrival.prompt),
            arrival.max_new_tokens,
            tenant=arrival.tenant,
        )
        self.tickets[sequence] = ticket
        if ticket.is_charged:
            self._charge(ticket, ticket.charged)
        self.engines[ticket.replica].queue.push(sequence)

    def _end(self, ended: Items[Sequence]) -> None:
        for sequence in ended:
            ticket, run = self.tickets.pop(sequence), self.run_
            cached = sequence.num_cached or 0
            made = tuple(sequence.tokens[sequence.prompt_len :])
            self.router.ended(ticket, Made(sequence.prompt_len - cached, len(made), (made,)))
            run.prompt_tokens += sequence.prompt_len
            run.cached_tokens += cached
            service = _service(sequence)
            self.ended[sequence.tenant] = self.ended.get(sequence.tenant, 0.0) + service
            if ticket.is_charged:
                self._charge(ticket, service - ticket.charged)

    def _charge(self, ticket: Ticket, service: float) -> None:
        """The simulator's own books, to be compared with the bound."""
        charged = self.charged.setdefault(ticket.request.tenant, [0.0] * len(self.engines))
        charged[ticket.replica] += service
        self.run_.worst_spread = max(self.run_.worst_spread, max(charged) - min(charged))

    def _note_idle(self) -> None:
        waits = any(len(engine.queue) for engine in self.engines)
        for engine in self.engines:
            self.run_.busy_steps += not engine.is_idle
            self.run_.idle_steps += engine.is_idle and waits

    def _note(self) -> None:
        run, served = self.run_, dict(self.ended)
        for sequence in self.tickets:
            if sequence.num_cached is not None:  # it was admitted
                served[sequence.tenant] = served.get(sequence.tenant, 0.0) + _service(sequence)
        run.service.append(served)
        waiting = [{sequence.tenant for sequence in engine.queue} for engine in self.engines]
        run.waiting.append(frozenset.intersection(*map(frozenset, waiting)))


def _service(sequence: Sequence) -> float:
    computed = sequence.prompt_len - (sequence.num_cached or 0)
    return PROMPT * computed + OUTPUT * sequence.num_generated
