"""What a policy does in a step does not grow with those that wait: its lines are counted."""

import sys

import pytest

from evolute.bench.simulated.full_machine import FullMachine

ROOM = "/engine/scheduling/"


def lines(machine, steps=20):
    """Of the scheduling room that these steps run."""
    count = 0

    def local(frame, event, _):
        nonlocal count
        count += event == "line"
        return local

    def trace(frame, event, _):
        return local if ROOM in frame.f_code.co_filename else None

    sys.settrace(trace)
    try:
        for _ in range(steps):
            machine.step()
    finally:
        sys.settrace(None)
    return count / steps


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "vtc", "dlpm", "priority"])
def test_a_step_with_ten_thousand_waiting_costs_what_one_with_five_hundred_does(policy):
    few = lines(FullMachine(policy, tenants=250, waiting=500))
    many = lines(FullMachine(policy, tenants=1000, waiting=10_000))
    assert many < 1.5 * few


@pytest.mark.parametrize("policy", ["vtc", "dlpm"])
def test_a_step_with_a_thousand_tenants_costs_what_one_with_two_hundred_does(policy):
    few = lines(FullMachine(policy, tenants=200, waiting=4000))
    many = lines(FullMachine(policy, tenants=2000, waiting=4000))
    assert many < 1.5 * few
