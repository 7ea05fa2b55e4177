"""Whatever happens in whatever order: the accounts agree and staleness is bounded.

Planted faults must be caught: a machine that no fault fails proves nothing.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from evolute.train.control.cap import InFlightCap, Pressure
from evolute.train.control.staleness import StalenessControl


class Admission(RuleBasedStateMachine):
    """A run with `batch` groups a step; `waiting` are accepted and not yet trained."""

    make = StalenessControl
    batch, staleness, concurrent = 3, 2, 7

    def __init__(self):
        super().__init__()
        self.control = self.make(self.batch, self.staleness, self.concurrent)
        self.running: list[int] = []  # version at which each began
        self.waiting: list[int] = []
        self.version = self.lost = self.total = 0

    @precondition(lambda self: self.control.capacity > 0)
    @rule()
    def begin(self):
        self.control.submit()
        self.running.append(self.version)
        self.total += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        self.control.accept()
        self.waiting.append(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_up(self, data):
        self.control.cancel()
        self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lost += 1

    @precondition(lambda self: self.waiting)
    @rule()
    def drop(self):
        self.control.filter()
        self.waiting.pop(0)
        self.lost += 1

    @precondition(lambda self: len(self.waiting) >= self.batch)
    @rule()
    def train(self):
        del self.waiting[: self.batch]
        self.version += 1
        self.control.advance()

    @invariant()
    def accounts_agree(self):
        control = self.control
        trained = self.version * self.batch
        assert control.submitted == self.total
        assert control.running == len(self.running) <= self.concurrent
        assert control.accepted == trained + len(self.waiting)
        assert control.filtered == self.lost
        assert control.submitted == control.accepted + control.filtered + control.running

    @invariant()
    def what_is_ahead_of_the_trainer_is_bounded(self):
        ahead = len(self.waiting) + len(self.running)
        assert ahead <= (self.staleness + 1) * self.batch

    @invariant()
    def there_is_always_a_way_on(self):
        can_move = self.control.capacity > 0 or self.running or len(self.waiting) >= self.batch
        assert can_move, "nothing can ever happen again"


class ForgetsTheRunning(StalenessControl):
    @property
    def capacity(self):
        bound = (self.max_staleness + self.step) * self.batch - self.accepted
        return min(self.max_concurrent - self.running, bound)


class OneStepTooMany(StalenessControl):
    @property
    def capacity(self):
        bound = (self.max_staleness + self.step + 1) * self.batch
        return min(self.max_concurrent - self.running, bound - self.accepted - self.running)


class ForgetsConcurrency(StalenessControl):
    @property
    def capacity(self):
        return (self.max_staleness + self.step) * self.batch - self.accepted - self.running


class DropsWithoutRoom(StalenessControl):
    def filter(self):
        self.filtered += 1
        self.submitted += 1


class NeverAdvances(StalenessControl):
    def advance(self):
        pass


def machine(control):
    return type("Machine", (Admission,), {"make": control})


FEW = settings(  # to find is enough, nobody reads the smallest example
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    database=None,
)


def test_admission_holds():
    run_machine(machine(StalenessControl), settings=settings(max_examples=100, deadline=None))


@pytest.mark.parametrize(
    "planted",
    [ForgetsTheRunning, OneStepTooMany, ForgetsConcurrency, DropsWithoutRoom, NeverAdvances],
)
def test_a_planted_fault_is_found(planted):
    with pytest.raises(AssertionError):
        run_machine(machine(planted), settings=FEW)


class Cap(RuleBasedStateMachine):
    """The cap follows the engine, within its bounds and no faster than its burst."""

    low, high, burst = 2, 40, 5

    def __init__(self):
        super().__init__()
        self.cap = InFlightCap(self.low, self.high, self.burst)
        self.running = self.preempted = self.begun = 0

    @rule(count=st.integers(1, 50))
    def begin(self, count):
        for _ in range(min(count, self.cap.room(self.running))):
            self.cap.begun()
            self.running += 1
            self.begun += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        self.running -= data.draw(st.integers(1, self.running))

    @rule(waiting=st.integers(0, 100), preemptions=st.sampled_from([0, 0, 1, 30]))
    def look(self, waiting, preemptions):
        before = self.cap.cap
        self.preempted += preemptions
        told = Pressure(self.running, waiting, self.preempted)
        surplus = self.cap.look(told, self.running)
        assert 0 <= surplus <= max(0, self.running - self.low)
        if preemptions:
            assert self.cap.cap <= before
        self.running -= surplus
        self.begun = 0

    @invariant()
    def within_bounds(self):
        assert self.low <= self.cap.cap <= self.high
        assert self.begun <= self.burst
        assert 0 <= self.cap.room(self.running) <= self.burst


def test_the_cap_holds():
    run_machine(Cap, settings=settings(max_examples=100, deadline=None))


def test_quiet_looks_bring_the_cap_back():
    cap = InFlightCap(1, 64, 8)
    cap.look(Pressure(60, 0, 0), 60)
    for preempted in range(1, 30):
        cap.look(Pressure(60, 0, preempted), cap.cap)
    assert cap.cap == 1
    looks = 0
    while cap.cap < 64:
        cap.look(Pressure(1, 0, 29), 1)
        looks += 1
        assert looks < 100


def test_overload_that_stays_cancels_the_surplus():
    cap = InFlightCap(1, 16, 16)
    assert cap.look(Pressure(16, 0, 0), 16) == 0
    assert cap.look(Pressure(16, 0, 3), 16) == 0  # a first time: no refills
    assert cap.cap == 12
    assert cap.look(Pressure(16, 0, 5), 16) == 16 - 9
    assert cap.look(Pressure(9, 0, 5), 9) == 0
