"""What the fairness paper proves is asserted in each run, and each bound finds what breaks it."""

import re
from dataclasses import replace

import pytest

from evolute.bench.shapes import WorkItem
from evolute.bench.simulated import tenants
from evolute.bench.simulated.bounds import BrokenBound, bounds
from evolute.bench.simulated.fairness import Served, Wait, serve
from evolute.bench.simulated.hardware import HARDWARE
from evolute.engine.scheduling import Sequence
from evolute.engine.scheduling.policies import Dlpm, Fcfs, Vtc
from evolute.engine.scheduling.policies.service import COSTS, PREDICTORS, Ledger

A10G, POOL = HARDWARE["a10g-7b"], 1000
W_Q = COSTS["tokens"].output


def stream(tenant, per_s, start_s, end_s, size=64):
    count = int((end_s - start_s) * per_s)
    return [
        WorkItem(f"{tenant}{i}", (0,) * size, size, start_s + i / per_s, tenant=tenant)
        for i in range(count)
    ]


FLOOD = stream("a", 5, 0, 100)
SELDOM = [*FLOOD, *stream("b", 0.05, 5, 100)]  # asks for little, beside a flood
RETURNS = [*FLOOD, *stream("b", 0.02, 0, 50), *stream("b", 5, 60, 100)]


def ledger(kind=Ledger, weights=()):
    return kind(COSTS["tokens"], PREDICTORS["none"], dict(weights))


def check(items, policy, name, *, weights={}, pool=POOL):  # noqa: B006
    served = serve(items, policy, A10G, pool_tokens=pool)
    limits = bounds("run", name, COSTS["tokens"], items, weights, pool, A10G)
    return limits.check(served)


@pytest.mark.parametrize("items", [FLOOD, SELDOM, RETURNS])
@pytest.mark.parametrize("name", ["vtc", "vtc-mean", "vtc-oracle", "dlpm"])
def test_all_bounds_hold(name, items):
    weights = {"a": 1.0, "b": 3.0}
    check(items, tenants.POLICIES[name]({}), name)
    check(items, tenants.POLICIES[name](weights), name, weights=weights)


def test_the_waits_of_who_asks_for_little_are_seen():
    """Else no bound could be broken by them."""
    figures = check(SELDOM, tenants.POLICIES["vtc"]({}), "vtc")
    assert 0 < figures["dispatch_of_bound"] <= 1 and 0 < figures["dispatch_s_of_bound"] <= 1
    assert figures["spread_of_bound"] > 0 and figures["lag_of_bound"] > 0


# -- planted bugs ----------------------------------------------------------------


class NoLift(Vtc):
    def _lift(self, account):
        pass


class NoCut(Dlpm):
    def _lift(self, account):
        pass


class Free(Ledger):
    """Nobody is charged."""

    def price(self, sequence, num_cached):
        return 0.0

    def made(self, sequence):
        return None


class Unheard(Vtc):
    """One tenant comes last, whatever it was served."""

    def order(self, cached_tokens, admitted):
        turns = list(super().order(cached_tokens, []))
        yield from sorted(turns, key=lambda s: s.tenant == "b")


class UnheardDlpm(Dlpm):
    def order(self, cached_tokens, admitted):
        waiting = [s for account in self.ledger.accounts.values() for s in account.waiting]
        yield from sorted(waiting, key=lambda s: s.tenant == "b")

    def admit(self, sequence, num_cached):
        self._granted = max(self._granted, self.ledger.account(sequence).counter + 1)
        super().admit(sequence, num_cached)


class Blind(Fcfs):
    """First come, first served, told as if it were fair."""


@pytest.mark.parametrize(
    ("bug", "name", "items", "found"),
    [
        (lambda: NoLift(ledger()), "vtc", RETURNS, {"spread", "gap", "lag"}),
        (lambda: Vtc(ledger(Free)), "vtc", RETURNS, {"gap", "lag", "neglect"}),
        (lambda: Unheard(ledger()), "vtc", SELDOM, {"spread", "lag", "dispatch", "neglect"}),
        (lambda: NoCut(ledger(), 1024), "dlpm", RETURNS, {"spread"}),
        (lambda: UnheardDlpm(ledger(), 1024), "dlpm", SELDOM, {"lag", "dispatch", "neglect"}),
        (lambda: Blind(), "vtc", SELDOM, {"lag", "dispatch", "neglect"}),
    ],
)
def test_a_planted_bug_breaks_the_bounds_that_it_should(bug, name, items, found):
    with pytest.raises(BrokenBound) as error:
        check(items, bug(), name)
    assert found <= set(re.findall(r"a (\w+) of", str(error.value)))


HELD = Served(["a", "b"], waits=[Wait("b", 1.0, 4000.0)], spread=2000.0)
HELD.service = [[0, 0], [100, 0], [4100, 0], [8100, 0]]
HELD.asked = [[0, 0], [0, 50], [0, 50], [0, 50]]
HELD.waiting = [[False, False], [False, True], [False, True], [False, True]]
LIMITS = replace(bounds("run", "vtc", COSTS["tokens"], SELDOM, {}, POOL, A10G), least_per_s=4000.0)


def test_each_bound_by_hand():
    """U = 2,000. What is exactly at a bound passes; a little more does not."""
    assert (LIMITS.spread, LIMITS.gap, LIMITS.lag, LIMITS.neglect) == (2000, 4000, 8000, 10_000)
    figures = LIMITS.check(HELD)
    assert figures["spread_of_bound"] == figures["lag_of_bound"] == 1
    assert figures["dispatch_of_bound"] == figures["dispatch_s_of_bound"] == 1
    assert HELD.worst_neglect() == 8100 / 2 - 50
    assert HELD.worst_neglect({"a": 3.0}) == 8100 / 4 - 50
    with pytest.raises(BrokenBound, match=r"a spread of 1.00 "):
        LIMITS.check(replace(HELD, spread=2001))
    with pytest.raises(BrokenBound, match=r"a dispatch of 1.25 "):
        LIMITS.check(replace(HELD, waits=[Wait("b", 1.0, 5000.0)]))
    with pytest.raises(BrokenBound, match=r"a dispatch_s of 2.00 "):
        LIMITS.check(replace(HELD, waits=[Wait("b", 2.0, 4000.0)]))
    more = [[0, 0], [100, 0], [4100, 0], [20_200, 0]]
    with pytest.raises(BrokenBound, match=r"a lag of .* a neglect of 1.00 "):
        LIMITS.check(replace(HELD, service=more))


@pytest.mark.parametrize("name", ["fcfs", "vtc", "vtc-oracle", "dlpm"])
def test_nobody_who_preempts_nobody_keeps_every_gap_below_w_q_m(name):
    """Theorem 4.8: one tenant fills memory before the other one comes, and both then wait."""
    pool = 4000
    items = [WorkItem(f"a{i}", (0,), 200, 0.0, tenant="a") for i in range(100)]
    items += [WorkItem(f"b{i}", (0,), 200, 0.001, tenant="b") for i in range(100)]
    served = serve(items, tenants.POLICIES[name]({}), A10G, pool_tokens=pool)
    assert served.worst_gap() >= 0.9 * W_Q * pool
    if name != "fcfs":
        limits = bounds("run", name, COSTS["tokens"], items, {}, pool, A10G)
        assert served.worst_gap() <= limits.gap
        limits.check(served)


def test_a_wait_is_of_who_has_nothing_in_flight():
    items = [*stream("a", 5, 0, 10), WorkItem("b0", (0,) * 8, 8, 4.0, tenant="b")]
    served = serve(items, tenants.POLICIES["vtc"]({}), A10G, pool_tokens=POOL)
    assert [wait.tenant for wait in served.waits] == ["a", "b"]
    assert served.waits[0].seconds == 0 and served.waits[1].service > 0
    assert isinstance(served.visits[0].sequence, Sequence)
