"""Nothing grows with the traffic that has been, whatever the policy."""

import pytest

from evolute.bench.simulated import churn as rooms
from evolute.bench.simulated.churn import LeftOver, churn
from evolute.engine.memory import RadixCache
from evolute.engine.scheduling.policies import POLICY_NAMES, Fcfs, Vtc

SHORT = 12_000  # 1,200 tenants that come ten times and never again, salts and adapters besides


@pytest.fixture
def small(monkeypatch):
    """Limits that a short churn would pass if anything grew."""
    monkeypatch.setattr("evolute.engine.scheduling.policies.counter.KEPT", 64)
    monkeypatch.setattr("evolute.engine.scheduling.policies.arrival.KEPT", 64)
    monkeypatch.setattr(rooms, "KEPT", 512)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_no_container_grows(policy):
    done = churn(policy, SHORT)
    assert done.requests == SHORT == done.finished + done.aborted
    assert min(done.aborted, done.preempted, done.adapters) > 20, "the traffic is mixed"


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_million_requests_leave_nothing(policy):
    done = churn(policy, 1_000_000)
    assert done.finished + done.aborted == 1_000_000


class KeepsDroppedRoots(RadixCache):
    def drop(self, is_stale):
        roots = list(self._roots.values())
        freed = super().drop(is_stale)
        self.graves = [*getattr(self, "graves", []), *roots]
        return freed


class RemembersAllTenants(Vtc):
    def _forget_idle(self):
        pass


class CountsAllTenants(Fcfs):
    def _forget_absent(self):
        pass


class ForgetsToFinish(Fcfs):
    def finish(self, sequence):
        pass


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("bug", "where"),
    [
        (RemembersAllTenants, "ledger.accounts"),
        (CountsAllTenants, "_served"),
        (ForgetsToFinish, "_running"),
    ],
)
def test_a_policy_that_leaks_is_found(bug, where, monkeypatch):
    make = rooms.make_policy

    def planted(settings):
        made = make(settings)
        made.__class__ = bug
        return made

    monkeypatch.setattr(rooms, "make_policy", planted)
    with pytest.raises(LeftOver, match=where):
        churn("vtc" if bug is RemembersAllTenants else "fcfs", SHORT)


@pytest.mark.usefixtures("small")
def test_a_cache_that_leaks_is_found(monkeypatch):
    monkeypatch.setattr("evolute.engine.scheduling.placement.RadixCache", KeepsDroppedRoots)
    with pytest.raises(LeftOver, match="graves"):
        churn("fcfs", SHORT)
