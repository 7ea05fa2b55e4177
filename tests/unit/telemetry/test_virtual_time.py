"""Time jumps, threads are waited for, dead-locks are told."""

import asyncio
import time

import pytest

from evolute.telemetry.virtual_time import NothingToWaitFor, VirtualTimeout, run_virtual


def test_hours_pass_in_no_time_and_in_order():
    seen = []

    async def wait(seconds):
        await asyncio.sleep(seconds)
        seen.append((seconds, asyncio.get_running_loop().time()))

    async def main():
        await asyncio.gather(*map(wait, (7200.0, 0.5, 60.0, 0.5)))

    started = time.monotonic()
    run_virtual(main())
    assert seen == [(0.5, 0.5), (0.5, 0.5), (60.0, 60.0), (7200.0, 7200.0)]
    assert time.monotonic() - started < 60


def test_timeouts_and_queues_are_the_loops_own():
    async def main():
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await queue.get()
        assert loop.time() == 30
        loop.call_later(5, queue.put_nowait, "late")
        return await queue.get(), loop.time()

    assert run_virtual(main()) == ("late", 35.0)


def test_a_thread_costs_no_virtual_time():
    async def main():
        loop = asyncio.get_running_loop()
        timer = asyncio.create_task(asyncio.sleep(1))
        await asyncio.to_thread(time.sleep, 0.05)
        at = loop.time()
        await timer
        return at, loop.time()

    assert run_virtual(main()) == (0.0, 1.0)


def test_a_dead_lock_is_told_with_who_waits():
    async def forever():
        await asyncio.Event().wait()

    async def main():
        await asyncio.gather(asyncio.create_task(forever(), name="the lost one"))

    with pytest.raises(NothingToWaitFor, match=r"the lost one in .*forever"):
        run_virtual(main())


def test_a_limit_ends_a_run_that_goes_on():
    async def main():
        while True:
            await asyncio.sleep(1)

    with pytest.raises(VirtualTimeout, match="100 virtual"):
        run_virtual(main(), limit_s=100)


@pytest.mark.parametrize("start_s", [1e7, 1e9, 1e12])
def test_time_moves_where_floats_are_coarse(start_s):
    async def main():
        for _ in range(50):
            await asyncio.sleep(0.3)
        return asyncio.get_running_loop().time() - start_s

    assert run_virtual(main(), start_s=start_s) == pytest.approx(15, abs=1e-2)
