"""A long job leaves room in the batch for users; where there is one place, it takes that."""

import asyncio

import pytest

from evolute.cli import main_job
from evolute.engine import Engine, EngineConfig
from evolute.envs import Accuracy, evaluate, make_task
from evolute.envs.intervals import wilson
from evolute.models import load_model
from evolute.train import TrainConfig


@pytest.mark.parametrize(("running", "places"), [(1, 1), (4, 1), (5, 1), (6, 2), (64, 60)])
def test_places_stay_free_unless_there_are_too_few(running, places):
    assert EngineConfig(max_running=running).bulk_places == places


def test_the_main_job_s_evaluations_leave_them_free(monkeypatch, tmp_path):
    """What `evolute loop` measures with, while users ask the same engine."""
    asked = []

    async def measured(task, backend, *, concurrency, **_):
        asked.append((backend.config.max_running, concurrency))
        return Accuracy(wilson(1, 2), 2, {}, 0, ())

    monkeypatch.setattr(main_job, "evaluate", measured)
    job = main_job.MainJob(main_job.LoopConfig(train=TrainConfig(model="tiny")), tmp_path, str)
    with Engine("tiny", max_running=12, memory_mb=16) as engine:
        asyncio.run(job._measure(engine, "base", None))
    assert asked == [(12, 8)]


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
