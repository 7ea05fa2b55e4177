"""Policies that keep their order decide what plain ones do, who sort everything anew.

Two machines get the same arrivals, aborts, priorities, weights and preemptions; after each step
what they computed, admitted and preempted must be the same, and so must the whole order of those
that wait. Windows, ages and blocks are small, so that short runs reach their ends.
"""

import random

import plain_policies as plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.engine.scheduling import Limits, Placement, Sequence, displaced, next_step
from evolute.engine.scheduling.policies import Dlpm, Fcfs, Lpm, Vtc, ageing
from evolute.engine.scheduling.policies.priority import Priority
from evolute.engine.scheduling.policies.service import COSTS, PREDICTORS, Ledger
from evolute.engine.scheduling.policies.standing import Standing

POLICIES = "evolute.engine.scheduling.policies"


@pytest.fixture(autouse=True, scope="module")
def small_windows():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("ageing", "arrival", "deficit"):
            patch.setattr(f"{POLICIES}.{module}.WINDOW", 7)
        patch.setattr(ageing, "MAX_PASSES", 3)
        for module in ("ageing", "arrival", "deficit"):
            patch.setattr(f"{POLICIES}.{module}.LAST_PASS", 6)
        patch.setattr("evolute.engine.scheduling.ordered.BLOCK", 4)
        yield


def make(name, *, is_plain, cost, predict):
    def ledger():
        return Ledger(COSTS[cost], PREDICTORS[predict], {"t1": 0.3, "t2": 3.0})

    kept = {
        "fcfs": Fcfs,
        "lpm": Lpm,
        "priority": Priority,
        "vtc": lambda: Vtc(ledger()),
        "dlpm": lambda: Dlpm(ledger(), 40),
    }
    sorted_anew = {
        "fcfs": plain.PlainFcfs,
        "lpm": plain.PlainLpm,
        "priority": plain.PlainPriority,
        "vtc": lambda: plain.PlainVtc(ledger()),
        "dlpm": lambda: plain.PlainDlpm(ledger(), 40),
    }
    return (sorted_anew if is_plain else kept)[name]()


class Machine:
    """Scheduling and memory are the engine's; the next token is a hash of those before it."""

    def __init__(self, policy, plan, limits):
        self.queue, self.plan, self.limits = policy, plan, limits
        self.placement = Placement(limits.available_pages, limits.page_size)
        self.flying = {}

    def arrive(self, number, prompt, output, tenant, priority, is_urgent):
        sequence = Sequence(
            number, len(prompt), list(prompt), output, tenant=tenant, priority=priority
        )
        sequence.has_deadline = is_urgent
        self.flying[number] = sequence
        self.queue.push(sequence)

    def abort(self, number):
        sequence = self.flying.pop(number)
        self.queue.discard(sequence)
        if sequence in self.placement.running:
            self.queue.finish(sequence)
            self.placement.release(sequence)

    def preempt(self, sequence):
        sequence.num_preemptions += 1
        self.queue.push(sequence, front=True)
        self.placement.release(sequence)

    def step(self):
        placement, queue = self.placement, self.queue
        limits = self._limits()
        victim = displaced(placement.running, queue, placement.look_up, limits)
        if victim is not None:
            self.preempt(victim)
            victim.is_displaced = True
        step = self.plan(
            placement.running,
            queue,
            placement.look_up,
            self._limits(),
            placement.cached_tokens(),
        )
        for sequence in step.preempted:
            self.preempt(sequence)
        for sequence in step.admitted:
            queue.admit(sequence, placement.look_up(sequence).num_cached)
            placement.admit(sequence)
        chunks = [chunk for chunk in step.chunks if placement.reserve(chunk)]
        for chunk in chunks:
            self.compute(chunk)
        return (
            victim and victim.id,
            [(chunk.sequence.id, *chunk[1:]) for chunk in chunks],
            [s.id for s in step.admitted],
            [s.id for s in step.preempted],
            getattr(step.blocked, "why", step.blocked),
        )

    def compute(self, chunk):
        sequence = chunk.sequence
        sequence.num_computed += chunk.num_tokens
        if sequence.num_uncomputed:
            return
        if sequence.num_generated == 0:
            self.placement.publish(sequence)
        sequence.tokens.append(hash(tuple(sequence.tokens)) % 1000)
        self.queue.made(sequence)
        if sequence.num_generated == sequence.max_new_tokens:
            del self.flying[sequence.id]
            self.queue.finish(sequence)
            self.placement.release(sequence)

    def order(self):
        placement = self.placement
        return [s.id for s in self.queue.order(lambda s: placement.look_up(s).num_cached, [])]

    def _limits(self):
        limits = self.limits
        return Limits(
            limits.token_budget,
            self.placement.num_available,
            limits.page_size,
            limits.max_running,
        )


def compared(name, seed, *, steps=60, kept=make, plan=next_step):
    """Two machines side by side; AssertionError at the first difference."""
    draw = random.Random(seed)
    cost = draw.choice(["tokens", "profiled", "residency"])
    predict, tenants = draw.choice(["none", "mean"]), draw.choice([1, 3, 12])
    limits = Limits(draw.choice([8, 32]), draw.choice([12, 40]), 4, draw.choice([2, 6]))
    both = [
        Machine(kept(name, is_plain=False, cost=cost, predict=predict), plan, limits),
        Machine(make(name, is_plain=True, cost=cost, predict=predict), plain.plain_step, limits),
    ]
    per_step = draw.choice([0.5, 2, 5])
    for number in range(steps):
        for extra in range(int(draw.expovariate(1 / per_step)) if number < steps / 2 else 0):
            prompt = [draw.randrange(3)] * draw.randint(1, 20) + [draw.randrange(9)]
            what = prompt, draw.randint(1, 6), f"t{draw.randrange(tenants)}", draw.randrange(30)
            is_urgent = draw.random() < 0.3
            for machine in both:
                machine.arrive(100 * number + extra, *what, is_urgent)
        disturb(draw, both)
        assert list(both[0].flying) == list(both[1].flying)
        assert both[0].order() == both[1].order()
        assert both[0].step() == both[1].step()
    assert [share for share in both[0].queue.shares()] == [s for s in both[1].queue.shares()]


def disturb(draw, both):
    """What clients and operators do between two steps."""
    chance = draw.random()
    if chance < 0.2 and both[0].flying:
        number = draw.choice(list(both[0].flying))
        for machine in both:
            machine.abort(number)
    elif chance < 0.25:
        newest = draw.random() < 0.5
        for machine in both:
            machine.queue.newest_first = newest
    elif chance < 0.3 and isinstance(both[0].queue, Vtc):
        weights = {f"t{i}": draw.choice([0.5, 1.0, 7.0]) for i in range(3)}
        quantum = draw.choice([5, 40, 300])
        for machine in both:
            machine.queue.set_weights(weights)
            if isinstance(machine.queue, Dlpm):
                machine.queue.set_quantum(quantum)
    elif chance < 0.35:
        for machine in both:
            machine.placement.drop(lambda namespace: True)


@pytest.mark.parametrize("name", ["fcfs", "lpm", "vtc", "dlpm", "priority"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_kept_decides_as_what_is_sorted_anew(name, seed):
    compared(name, seed)


# -- planted bugs ----------------------------------------------------------------


def found(name, **broken):
    for seed in range(300):
        try:
            compared(name, seed, **broken)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("name", ["vtc", "dlpm"])
def test_a_counter_that_rose_unnoticed_is_found(name, monkeypatch):
    monkeypatch.setattr(Standing, "raised", lambda self, account: None)
    assert found(name)


@pytest.mark.parametrize("name", ["vtc", "dlpm"])
def test_a_refund_taken_for_a_rise_is_found(name, monkeypatch):
    """A counter that has fallen would be looked for where it is not."""
    monkeypatch.setattr(Standing, "touch", Standing.raised)
    assert found(name)


@pytest.mark.parametrize("name", ["lpm", "dlpm"])
def test_an_answer_of_the_cache_that_is_out_of_date_is_found(name, monkeypatch):
    monkeypatch.setattr(Placement, "cached_tokens", lambda placement: placement._cached.__getitem__)
    assert found(name)


@pytest.mark.parametrize("name", ["lpm", "dlpm"])
def test_a_window_that_forgets_ages_is_found(name, monkeypatch):
    module = {"lpm": "arrival", "dlpm": "deficit"}[name]
    monkeypatch.setattr(
        f"{POLICIES}.{module}.ranks", lambda window, cached: [(2, -cached(s)) for s in window]
    )
    assert found(name)
