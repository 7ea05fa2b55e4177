"""Starvation does not count as silence, and silence still ends."""

import asyncio
import os
import time

import pytest

from evolute.bench import soak_patience
from evolute.bench.soak_patience import Patience, Times, look, starved


@pytest.fixture
def machine(monkeypatch):
    """What threads ran and waited, as a test says."""
    threads = {(1, "1"): Times(0.0, 0.0, False), (1, "2"): Times(0.0, 0.0, False)}
    monkeypatch.setattr(soak_patience, "look", lambda pids: dict(threads))
    monkeypatch.setattr(soak_patience, "LEAST_S", 0.01)
    return threads


def ends_after(limit_s, change=lambda seconds: None):
    """Seconds until somebody who is silent for ever is given up. `change` is the machine's life."""

    async def wait():
        patience, began = Patience(), time.monotonic()

        async def live():
            while True:
                change(time.monotonic() - began)
                patience.look()
                await asyncio.sleep(0.02)

        living = asyncio.ensure_future(live())
        with pytest.raises(TimeoutError):
            async with patience.limit(limit_s):
                await asyncio.sleep(30)
        living.cancel()
        return time.monotonic() - began

    return asyncio.run(wait())


def test_silence_ends(machine):
    assert 0.1 <= ends_after(0.1) < 10


def test_a_thread_that_computes_all_the_time_does_not_starve(machine):
    def change(seconds):
        machine[1, "1"] = Times(seconds, 0.0, True)

    assert ends_after(0.1, change) < 10


def test_what_was_waited_for_a_processor_is_waited_for_in_addition(machine):
    def change(seconds):  # two threads at once
        machine[1, "1"] = machine[1, "2"] = Times(0.0, min(seconds, 0.4), False)

    assert 0.5 <= ends_after(0.1, change) < 0.5 + 10


def test_a_wait_that_has_not_ended_is_no_silence(machine):
    def change(seconds):
        machine[1, "1"] = Times(7.0, 0.0, seconds < 0.5)  # ready, and it does not run

    assert 0.5 <= ends_after(0.1, change) < 10


def test_what_is_in_time_is_not_ended_and_errors_go_through(machine):
    async def wait():
        async with Patience().limit(0.05):
            pass
        with pytest.raises(KeyError):
            async with Patience().limit(0.05):
                raise KeyError
        await asyncio.sleep(0.2)

    asyncio.run(wait())


def test_the_thread_that_starved_most_counts_in_each_process():
    def of(*waited):
        return {id: Times(0.0, seconds, False) for id, seconds in waited}

    then = of(((1, "1"), 5.0), ((1, "2"), 5.0), ((2, "1"), 0.0))
    now = of(((1, "1"), 6.0), ((1, "3"), 3.0), ((2, "1"), 0.5))  # one ended, one began
    assert starved(then, now) == 3.5
    assert starved(now, now) == starved({}, {}) == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="of Linux")
def test_linux_tells_of_each_thread():
    found = look((os.getpid(), 2**30))  # the second is nobody
    assert found[os.getpid(), str(os.getpid())].ran > 0
    assert {pid for pid, _ in found} == {os.getpid()}
