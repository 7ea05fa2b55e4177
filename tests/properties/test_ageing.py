"""No request is passed over more often than `policies/ageing.py` states, whatever comes later."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.engine.memory import NO_ADAPTER
from evolute.engine.scheduling import (
    Arrival,
    Candidate,
    Limits,
    Sequence,
    SimulationSettings,
    displaced,
    make_policy,
    next_step,
    simulate,
)
from evolute.engine.scheduling.clustering import Clustering
from evolute.engine.scheduling.policies import PolicySettings, ageing

FEW = 5  # passes, in place of 64: short traces reach it


@pytest.fixture(autouse=True, scope="module")
def few_passes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ageing, "MAX_PASSES", FEW)
        patch.setattr(ageing, "LAST_PASS", 2 * FEW)
        patch.setattr("evolute.engine.scheduling.policies.arrival.LAST_PASS", 2 * FEW)
        patch.setattr("evolute.engine.scheduling.policies.deficit.LAST_PASS", 2 * FEW)
        patch.setattr("evolute.engine.scheduling.clustering.MAX_PASSES", FEW)
        yield


@st.composite
def floods(draw):
    """Families of long prefixes that keep coming, cold prompts between them, little memory."""
    num_families, per_step = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    arrivals = []
    for number in range(draw(st.integers(20, 120))):
        family = draw(st.integers(0, num_families - 1))
        is_cold = draw(st.integers(0, 9)) == 0
        prefix = (9000 + number,) if is_cold else (family,)
        length = draw(st.integers(1, 40))
        prompt = (*(prefix * length), 5000 + number)
        output = draw(st.integers(1, 6))
        arrivals.append(Arrival(number // per_step, prompt, output))
    pages = draw(st.integers(14, 40))
    most = draw(st.integers(1, 4))
    return arrivals, SimulationSettings(pages, 4, draw(st.integers(8, 64)), most)


@pytest.mark.parametrize("policy", ["lpm", "dlpm"])
@settings(max_examples=80, deadline=None)
@given(flood=floods())
def test_passes_are_bounded(policy, flood):
    arrivals, limits = flood
    replay = simulate(arrivals, replace(limits, policy=policy), is_checked=False)
    assert max(replay.passed_over) <= 2 * FEW - 1 + limits.max_running


def worst_case(policy):
    """The cold one comes first; of the hot ones more come in each step than are served."""
    hot = tuple(range(32))
    arrivals = [Arrival(0, hot, 2), Arrival(1, tuple(range(100, 140)), 1)]
    arrivals += [Arrival(1 + i // 4, (*hot, 300 + i), 1) for i in range(200)]
    return simulate(arrivals, SimulationSettings(400, 4, 128, 3, policy)).passed_over[1]


@pytest.mark.parametrize("policy", ["lpm", "dlpm"])
def test_a_hot_stream_passes_a_cold_one_as_often_as_it_may_and_no_more(policy):
    assert FEW <= worst_case(policy) <= 2 * FEW - 1 + 3


@pytest.mark.parametrize("policy", ["lpm", "dlpm"])
def test_without_ageing_the_cold_one_waits_for_all(policy, monkeypatch):
    monkeypatch.setattr(ageing, "MAX_PASSES", 10**6)
    monkeypatch.setattr(ageing, "LAST_PASS", 10**6)
    monkeypatch.setattr(f"evolute.engine.scheduling.policies.{MODULE[policy]}.LAST_PASS", 10**6)
    assert worst_case(policy) > 5 * FEW


MODULE = {"lpm": "arrival", "dlpm": "deficit"}


def test_one_that_may_not_be_passed_any_more_is_not_skipped_for_its_sibling_either():
    """Others of its queue would pass it while a running one computes its prefix."""
    filler = Sequence(0, 64, list(range(64)), 1, num_computed=16, pages=[0])
    old = Sequence(1, 64, [*range(60), 1, 2, 3, 4], 1, passed_over=2 * FEW)
    young = Sequence(2, 8, list(range(500, 508)), 1)
    for policy in ("lpm", "dlpm"):
        for passes, admitted in ((2 * FEW, []), (0, [young])):
            old.passed_over = passes
            queue = make_policy(PolicySettings(policy))
            queue.push(old)
            queue.push(young)
            limits = Limits(64, 1000, 16, 8)
            step = next_step([filler], queue, lambda s: Candidate(s, 0, 0), limits)
            assert step.admitted == admitted


# -- clusters of adapters ------------------------------------------------------


class Machine:
    """Nothing is cached, and each request runs for `output` steps on an adapter."""

    def __init__(self, policy, cluster, places):
        self.queue = make_policy(PolicySettings(policy, quantum=64))
        self.limits = Limits(10_000, 10_000, 16, places, adapter_cluster=cluster)
        self.running, self.number, self.most = [], 0, 0
        self.order = []

    def arrive(self, adapter, output=3, tenant="t"):
        sequence = Sequence(
            self.number, 4, [self.number] * 4, output, adapter=adapter, tenant=tenant
        )
        self.number += 1
        self.queue.push(sequence)
        return sequence

    def step(self):
        look_up = lambda s: Candidate(s, 0, 0)  # noqa: E731
        step = next_step(self.running, self.queue, look_up, self.limits)
        for sequence in step.admitted:
            self.queue.admit(sequence, 0)
            sequence.num_cached = 0
            self.order.append(sequence)
        self.running += step.admitted
        present = {s.adapter for s in self.running} - {NO_ADAPTER}
        self.most = max(self.most, len(present))
        for sequence in self.running:
            sequence.tokens.append(0)
            sequence.num_computed = sequence.num_tokens - 1
            self.queue.made(sequence)
        for sequence in [s for s in self.running if s.num_generated == s.max_new_tokens]:
            self.running.remove(sequence)
            self.queue.finish(sequence)
        return len(present)


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "dlpm"])
@settings(max_examples=100, deadline=None)
@given(
    adapters=st.lists(st.integers(-1, 6), min_size=20, max_size=150),
    cluster=st.integers(1, 3),
    places=st.integers(1, 4),
    per_step=st.integers(1, 6),
)
def test_with_clusters_nobody_is_passed_over_more_often_either(
    policy, adapters, cluster, places, per_step
):
    machine, sequences, left = Machine(policy, cluster, places), [], list(adapters)
    while left or machine.running or len(machine.queue):
        for adapter in left[:per_step]:
            sequences.append(machine.arrive(adapter))
        del left[:per_step]
        machine.step()
    passes = FEW if policy == "fcfs" else 2 * FEW
    rank = {sequence: place for place, sequence in enumerate(machine.order)}
    for sequence in sequences:
        later = sequences[sequence.id + 1 :]
        assert sum(rank[s] < rank[sequence] for s in later) <= passes - 1 + places


def test_clusters_keep_distinct_adapters_few_while_their_kind_waits(monkeypatch):
    monkeypatch.setattr("evolute.engine.scheduling.clustering.MAX_PASSES", 64)
    seen = {}
    for cluster in (0, 2):
        machine, counts = Machine("fcfs", cluster, 8), []
        for number in range(400):
            machine.arrive(number % 5)
        for _ in range(20):
            counts.append(machine.step())
        seen[cluster] = sum(counts) / len(counts)
    assert seen[0] == 5
    assert seen[2] < 3.5


def test_off_changes_no_order_and_the_base_is_never_deferred():
    orders = []
    for cluster in (0, 10**6):
        machine = Machine("lpm", cluster, 3)
        for number in range(60):
            machine.arrive(number % 7 - 1)
        while machine.running or len(machine.queue):
            machine.step()
        orders.append([s.id for s in machine.order])
    assert orders[0] == orders[1]
    assert not Clustering(1, {3}).defers(NO_ADAPTER, 0)
    assert Clustering(1, {3}).defers(4, 0) and not Clustering(1, {3}).defers(4, FEW)


def test_a_tenant_whose_adapter_must_wait_takes_no_place():
    """A place would go to another: nobody is sent away for it step after step."""
    machine = Machine("dlpm", 1, 3)
    for _ in range(3):
        machine.arrive(1, output=50, tenant="busy")
    machine.step()
    waits = machine.arrive(2, tenant="chat")
    outlook_ready = []
    machine.queue.victim(machine.running, lambda s: bool(outlook_ready.append(s)))
    assert outlook_ready == [waits]
    look_up = lambda s: Candidate(s, 0, 0)  # noqa: E731
    assert displaced(machine.running, machine.queue, look_up, machine.limits) is None
    free = replace(machine.limits, adapter_cluster=0)
    assert displaced(machine.running, machine.queue, look_up, free) in machine.running
