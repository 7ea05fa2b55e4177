"""Slots: a number is never held twice, and none is lost."""

import asyncio
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.envs.sandbox.slots import Slots


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_no_number_is_held_twice_and_none_is_lost(count, plan):
    slots, held = Slots(count), set()

    async def use(ticks):
        async with slots.held() as number:
            assert number not in held and 0 <= number < count
            held.add(number)
            try:
                for _ in range(ticks):
                    await asyncio.sleep(0)
            finally:
                held.remove(number)

    async def main():
        tasks = []
        for ticks, victim in plan:
            tasks.append(asyncio.create_task(use(ticks)))
            await asyncio.sleep(0)
            if victim and len(tasks) > victim:
                tasks[-victim - 1].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        await asyncio.sleep(0.001)

    asyncio.run(main())
    assert slots.num_free == count and not held


def test_loops_of_other_threads_wait_too():
    slots, most, now, lock = Slots(2), 0, 0, threading.Lock()

    async def use():
        nonlocal most, now
        async with slots.held():
            with lock:
                now += 1
                most = max(most, now)
            await asyncio.sleep(0.01)
            with lock:
                now -= 1

    async def several():
        await asyncio.gather(*(use() for _ in range(5)))

    threads = [threading.Thread(target=asyncio.run, args=(several(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == 2 and slots.num_free == 2
