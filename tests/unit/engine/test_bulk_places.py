"""A long job leaves room in the batch for users; where there is one place, it takes that."""

import asyncio

import pytest

from evolute.engine import Engine, EngineConfig
from evolute.envs import evaluate, make_task
from evolute.models import load_model


@pytest.mark.parametrize(("running", "places"), [(1, 1), (4, 1), (5, 1), (6, 2), (64, 60)])
def test_places_stay_free_unless_there_are_too_few(running, places):
    assert EngineConfig(max_running=running).bulk_places == places


def test_an_evaluation_leaves_places_free():
    """Never more is in flight than its places, whenever one looks."""

    async def run() -> tuple[int, int]:
        config = EngineConfig(max_running=12, memory_mb=16)
        with Engine(load_model("tiny"), config) as engine:
            places, most = engine.config.bulk_places, 0
            work = evaluate(make_task("addition-2"), engine, count=24, concurrency=places)
            task = asyncio.create_task(work)
            while not task.done():
                stats = engine.stats()
                most = max(most, stats.running + stats.waiting)
                await asyncio.sleep(0.001)
            await task
            return most, places

    most, places = asyncio.run(run())
    assert 1 <= most <= places
