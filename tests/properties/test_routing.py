"""The router keeps its books, whatever comes; deficits keep replicas together."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.bench.simulated.fleet import (
    fleet_bound,
    one_hot_prefix,
    run_fleet,
    shared_prefixes,
)
from evolute.engine.replicas import (
    D2lpm,
    Made,
    PrefixTree,
    ReplicaConfig,
    Router,
    make_policy,
)
from evolute.engine.replicas import deficits as rooms
from evolute.engine.replicas.config import ROUTING_NAMES
from evolute.engine.scheduling import Arrival, SimulationSettings
from evolute.types import GenerateRequest, SamplingParams

PAGE = 4
QUANTUM = 60
LONGEST, OUTPUT = 40, 20  # tokens
V = LONGEST + 2 * OUTPUT  # the most that one request is charged


# -- the tree ------------------------------------------------------------------

tokens = st.lists(st.integers(0, 2), max_size=24)
steps = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]), tokens), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps=steps, capacity=st.integers(0, 40), dropped=st.booleans())
def test_the_tree_matches_what_was_sent_unless_it_had_to_go(steps, capacity, dropped):
    tree, sent = PrefixTree(PAGE), []
    for replica in range(3):
        tree.add(replica, capacity)
    for replica, space, text in steps:
        tree.insert(replica, space, text)
        sent.append((replica, space, text))
        tree.check()
        found = tree.match(space, text)
        for other in range(3):
            best = max((shared(text, t) for r, s, t in sent if (r, s) == (other, space)), default=0)
            assert found[other] <= best and found[other] % PAGE == 0
        assert found[replica] == min(len(text), capacity) // PAGE * PAGE
    if dropped:
        tree.drop(lambda space: space == "a")
        tree.check()
        for _, space, text in sent:
            assert space == "b" or not any(tree.match(space, text).values())
    tree.clear()
    assert len(tree) == 0


@settings(max_examples=25, deadline=None)
@given(steps=steps)
def test_with_room_for_all_the_longest_prefix_is_found(steps):
    tree, sent = PrefixTree(PAGE), []
    tree.add(0, 10_000)
    for _, space, text in steps:
        best = max((shared(text, t) for s, t in sent if s == space), default=0)
        assert tree.match(space, text) == {0: best // PAGE * PAGE}
        tree.insert(0, space, text)
        sent.append((space, text))


def shared(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


# -- the books and the deficits ------------------------------------------------


class Traffic:
    """Requests that come, end and fail at random; replicas that die and come back."""

    def __init__(self, seed, routing="d2lpm", *, exact=True, dies=False, replicas=3):
        self.draw = random.Random(seed)
        self.router = Router(make_policy(ReplicaConfig(replicas, routing, QUANTUM)), PAGE)
        self.exact, self.dies, self.num = exact, dies, 0
        self.replicas = replicas
        self.flights = []  # ticket, tokens that it will make
        self.unsettled = 0.0  # the most that ends could change, of a tenant at a replica
        for replica in range(replicas):
            self.revive(replica)

    def revive(self, replica):
        self.router.add(replica, places=4, room=12, cache_tokens=200)

    def arrive(self):
        draw, self.num = self.draw, self.num + 1
        prompt = [draw.randrange(2) for _ in range(draw.randint(1, LONGEST))]
        made = OUTPUT if self.exact else draw.randint(1, OUTPUT)
        request = GenerateRequest(
            tuple(prompt),
            SamplingParams(max_new_tokens=OUTPUT),
            tenant=draw.choice("abc"),
            id=str(self.num),
        )
        if self.exact:  # so that what is charged ahead is what will be
            self.router._recent[request.tenant] = [OUTPUT]
        before = {r: (load.in_flight, load.places) for r, load in self.router.loads.items()}
        ticket = self.router.route(request)
        if ticket is None:
            assert not before
            return
        taken, places = before[ticket.replica]
        if isinstance(self.router.policy, D2lpm):
            assert taken < places or all(n >= p for n, p in before.values()), "one had a place"
        self.flights.append((ticket, made))

    def end(self):
        if self.flights:
            ticket, made = self.flights.pop(self.draw.randrange(len(self.flights)))
            computed = len(ticket.request.prompt) - ticket.cached_tokens
            if not self.exact and self.draw.random() < 0.2:
                self.router.ended(ticket, None)
            else:
                self.router.ended(ticket, Made(computed, made))

    def die(self):
        replica = self.draw.randrange(self.replicas)
        if replica in self.router.loads:
            self.router.remove(replica)
        else:
            self.revive(replica)

    def run(self, watch=lambda: None, steps=150):
        for _ in range(steps):
            what = self.draw.random()
            if self.dies and what < 0.05:
                self.die()
            elif what < 0.55:
                self.arrive()
            else:
                self.end()
            watch()
        self.router.tree.check()
        while self.flights:
            self.end()
        return self


@pytest.mark.parametrize("routing", ROUTING_NAMES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_books_are_empty_when_all_has_ended(routing, seed):
    traffic = Traffic(seed, routing, exact=False, dies=True).run()
    for load in traffic.router.loads.values():
        assert load.in_flight == 0 and load.service == 0
    if routing == "d2lpm":
        accounts = traffic.router.policy._accounts.values()
        assert all(account.in_flight == 0 for account in accounts)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), dies=st.booleans())
def test_exactly_predicted_deficits_lie_in_their_range(seed, dies):
    traffic = Traffic(seed, dies=dies)
    assert_deficits(traffic, ends=lambda tenant, replica: 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_deficits_lie_in_their_range_but_for_what_ends_may_change(seed):
    traffic, most = Traffic(seed, exact=False), [0.0]

    def ends(tenant, replica):
        unsettled = sum(
            2 * OUTPUT + LONGEST
            for ticket, _ in traffic.flights
            if (ticket.request.tenant, ticket.replica) == (tenant, replica)
        )
        most[0] = max(most[0], unsettled)
        return most[0]

    assert_deficits(traffic, ends)


def assert_deficits(traffic, ends):
    policy, router = traffic.router.policy, traffic.router

    def watch():
        for tenant in policy._accounts:
            for replica in router.loads:
                slack = ends(tenant, replica)
                assert -V - slack < policy.deficit(tenant, replica) <= QUANTUM + slack

    traffic.run(watch)


class NeverGrants(D2lpm):
    """A planted fault: the longest prefix, whatever was sent there."""

    def charge(self, tenant, replica, service):
        pass


def test_without_charges_a_hot_prefix_spreads_the_loads_apart():
    def spread(policy):
        router = Router(policy, PAGE)
        for replica in range(2):
            router.add(replica, places=10_000, room=10_000, cache_tokens=1000)
        sent = [0.0, 0.0]
        for i in range(200):
            request = GenerateRequest((1,) * 40, SamplingParams(max_new_tokens=1), id=str(i))
            ticket = router.route(request)
            sent[ticket.replica] += ticket.charged
            router.ended(ticket, Made(len(request.prompt) - ticket.cached_tokens, 1))
        return abs(sent[0] - sent[1])

    assert spread(D2lpm(QUANTUM)) <= QUANTUM + V
    assert spread(NeverGrants(QUANTUM)) > 4 * (QUANTUM + V)


def test_tenants_that_never_return_are_forgotten(monkeypatch):
    monkeypatch.setattr(rooms, "KEPT", 16)
    policy = D2lpm(QUANTUM)
    policy._forget_at = 32
    router = Router(policy, PAGE)
    router.add(0, places=4, room=8, cache_tokens=64)
    kept = router.route(GenerateRequest((1, 2), tenant="stays"))
    for i in range(500):
        ticket = router.route(GenerateRequest((1, 2), tenant=f"t{i}"))
        router.ended(ticket, Made(2, 1))
    assert len(policy) <= 33 and "stays" in policy._accounts
    assert len(router._recent) <= 1024 + 1 and len(router.tree) <= 17
    router.ended(kept, None)


# -- replicas in the simulator ---------------------------------------------------

SMALL = SimulationSettings(
    num_pages=160, token_budget=256, max_running=8, policy="dlpm", quantum=256
)


def fleet(arrivals, routing, quantum=2048, count=4, engine=SMALL):
    return run_fleet(arrivals, engine, ReplicaConfig(count, routing, quantum))


def test_prefixes_are_found_again_where_they_were_sent():
    arrivals = shared_prefixes(
        groups=24, each=12, prefix=256, unique=32, output=16, per_step=1.0, tenants=4
    )
    ours, blind = fleet(arrivals, "d2lpm"), fleet(arrivals, "round_robin")
    aware = fleet(arrivals, "cache_aware")
    assert ours.hit_rate > 2 * blind.hit_rate and ours.hit_rate > 0.9 * aware.hit_rate
    assert max(ours.routed.count(r) for r in range(4)) < 1.5 * len(arrivals) / 4


def test_a_hot_prefix_does_not_gather_at_one_replica():
    arrivals = one_hot_prefix(
        count=300, hot=0.9, prefix=256, unique=32, output=16, per_step=1.0, seed=3
    )
    run = fleet(arrivals, "d2lpm")
    assert run.sent_to_wait == 0  # work conserving
    assert run.idle_steps <= 0.1 * run.busy_steps
    ends = 8 * 2 * (32 + 256)  # sequences in flight at one replica when their ends are told
    assert run.worst_spread <= 2048 + (288 + 2 * 16) + 2 * ends


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tenants_that_wait_everywhere_get_service_within_the_bound(seed):
    draw = random.Random(seed)
    shapes = {f"t{i}": (draw.randint(8, 96), draw.randint(1, 24)) for i in range(3)}
    arrivals = []
    for step in range(60):
        for tenant, (prompt, output) in shapes.items():
            for _ in range(draw.choice([0, 1, 3])):
                text = tuple(draw.choices(range(50), k=draw.randint(1, prompt)))
                arrivals.append(Arrival(step, text, draw.randint(1, output), tenant))
    engine = SimulationSettings(
        num_pages=24, token_budget=64, max_running=4, policy="dlpm", quantum=64
    )
    run = fleet(arrivals, "d2lpm", quantum=256, count=2, engine=engine)
    assert run.sent_to_wait == 0
    assert run.worst_gap() <= fleet_bound(engine, 2, 96)


def test_the_fleet_s_bound_tells_fair_replicas_from_others():
    """One tenant floods first: who comes first is served first under fcfs, not under dlpm."""
    flood = [Arrival(0, (i % 50,) * 40, 16, "first") for i in range(160)]
    later = [Arrival(1, (i % 50, 1) * 20, 16, "second") for i in range(160)]
    engine = SimulationSettings(
        num_pages=16, token_budget=64, max_running=4, policy="dlpm", quantum=64
    )
    limit = fleet_bound(engine, 2, 40)
    assert 0 < fleet([*flood, *later], "d2lpm", count=2, engine=engine).worst_gap() <= limit
    unfair = replace(engine, policy="fcfs")
    assert fleet([*flood, *later], "d2lpm", count=2, engine=unfair).worst_gap() > limit
