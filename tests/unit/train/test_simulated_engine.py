"""Processor sharing on a virtual clock, by numbers that one can check by hand."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.telemetry.virtual_time import run_virtual
from evolute.train.simulation.engine import SimulatedEngine
from evolute.types import VersionSegment


def ends(lengths, stream=10.0, total=20.0, room=100, starts=None):
    """Virtual seconds at which each sequence ends."""

    async def one(engine, tokens, start):
        await asyncio.sleep(start)
        await engine.generate(float(tokens))
        return asyncio.get_running_loop().time()

    async def main():
        engine = SimulatedEngine(stream, total, room)
        begins = starts or [0.0] * len(lengths)
        found = await asyncio.gather(*(one(engine, n, s) for n, s in zip(lengths, begins)))
        return found, engine.busy_s(), engine.served

    return run_virtual(main())


def test_one_alone_has_its_own_rate():
    assert ends([50]) == ([5.0], 5.0, 50.0)


def test_many_share_what_there_is():
    found, busy_s, served = ends([10, 10, 20, 20])  # 5 tokens/s each, then 10 each
    assert found == pytest.approx([2, 2, 3, 3])
    assert (busy_s, served) == pytest.approx((3, 60))


def test_one_that_comes_later_slows_the_others():
    found, _, _ = ends([40, 20, 20], stream=20.0, starts=[0, 0, 1])  # 20/2 a second, then 20/3
    assert found == pytest.approx([4.0, 2.5, 3.5])


def test_a_full_engine_lets_others_wait():
    found, _, _ = ends([10, 10, 10], room=1)
    assert found == pytest.approx([1, 2, 3])


def test_a_pause_costs_its_time_and_tokens_know_their_version():
    async def main():
        engine = SimulatedEngine(10.0, 20.0, 10)
        task = asyncio.create_task(engine.generate(30.0))
        await asyncio.sleep(1)
        engine.pause()
        await asyncio.sleep(5)
        engine.resume(1)
        segments = await task
        late = await engine.generate(10.0)
        return segments, late, asyncio.get_running_loop().time(), engine.busy_s()

    segments, late, now_s, busy_s = run_virtual(main())
    assert segments == (VersionSegment(0, 10), VersionSegment(1, 20))
    assert late == (VersionSegment(1, 10),)
    assert (now_s, busy_s) == pytest.approx((9, 4))


def test_who_is_cancelled_makes_room():
    async def main():
        engine = SimulatedEngine(10.0, 10.0, 1)
        tasks = [asyncio.create_task(engine.generate(float(n))) for n in (1000, 10, 10)]
        await asyncio.sleep(1)
        tasks[0].cancel(), tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return asyncio.get_running_loop().time(), engine.load()

    now_s, load = run_virtual(main())
    assert now_s == pytest.approx(2)
    assert (load.running, load.waiting) == (0, 0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 50)), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_nothing_is_made_faster_than_the_rates(work, room):
    lengths, starts = zip(*work)
    found, busy_s, served = ends(lengths, room=room, starts=list(starts))
    assert served == pytest.approx(sum(lengths))
    assert busy_s >= sum(lengths) / 20 * (1 - 1e-6)
    assert all(end - start >= n / 10 * (1 - 1e-6) for end, start, n in zip(found, starts, lengths))
