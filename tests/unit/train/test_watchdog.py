"""Nothing hangs: when nothing moves the run fails, and says who waits for whom."""

import asyncio

import pytest

from evolute.telemetry.virtual_time import run_virtual
from evolute.train.control.watchdog import Waits, find_cycle
from evolute.types import TrainingError


def test_a_stalled_run_fails_with_the_wait_for_graph():
    waits = Waits(limit_s=60.0)

    async def stuck(who, what, *whom):
        with waits.on(who, what, lambda: whom):
            await asyncio.Event().wait()

    async def work():
        await asyncio.gather(
            stuck("trainer", "a group", "group 3", "group 4"),
            stuck("group 3", "its episodes", "episode 3/0"),
            stuck("episode 3/0", "its player", "trainer"),
        )

    with pytest.raises(TrainingError) as caught:
        run_virtual(waits.guard(work()))
    text = str(caught.value)
    assert "trainer waits 60.0 s for a group <- group 3, group 4" in text
    assert "a circle: trainer -> group 3 -> episode 3/0 -> trainer" in text


def test_a_run_that_moves_is_left_alone():
    waits = Waits(limit_s=10.0)

    async def work():
        for _ in range(20):
            await asyncio.sleep(9)
            waits.moved()
        return "done"

    assert run_virtual(waits.guard(work())) == "done"


def test_what_the_work_raises_comes_out():
    async def work():
        await asyncio.sleep(1)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        run_virtual(Waits(10.0).guard(work()))


def test_a_long_list_is_cut():
    waits = Waits(1.0)

    async def work():
        with waits.on("a", "b", lambda: [f"group {i}" for i in range(9)]):
            return waits.dump()

    assert run_virtual(work()).endswith("group 4 and 4 more")


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ({}, []),
        ({"a": ("b",), "b": ("c",)}, []),
        ({"a": ("a",)}, ["a", "a"]),
        ({"x": ("a",), "a": ("b", "c"), "c": ("d",), "d": ("a",)}, ["a", "c", "d", "a"]),
        ({"a": ("b", "c"), "b": ("d",), "c": ("d",)}, []),
    ],
)
def test_a_circle_is_found(edges, cycle):
    assert find_cycle(edges) == cycle
