"""Health is told from the heartbeat: true when the engine hangs, and while it works long."""

import threading
import time
from types import SimpleNamespace

import pytest

from evolute.engine import Engine
from evolute.server.health import Health
from evolute.server.limits import Traffic
from evolute.testing import until
from evolute.types import GenerateRequest, SamplingParams


class Beating:
    """An engine of which only the heartbeat is known."""

    def __init__(self, busy_s):
        self.heartbeat = SimpleNamespace(busy_s=busy_s)


def test_the_limit_is_the_time_without_a_step_while_there_is_work():
    for busy_s, name in ((0.0, "ok"), (59.9, "ok"), (60.1, "stalled"), (1e6, "stalled")):
        assert Health(Beating(busy_s), Traffic()).status().name == name
    assert Health(Beating(2.0), Traffic(), stall_s=1.0).status().name == "stalled"


def test_an_engine_that_hangs_in_a_turn_is_stalled_until_it_goes_on():
    with Engine("tiny", num_threads=1) as engine:
        health, goes_on = Health(engine, Traffic(), stall_s=0.05), threading.Event()
        until(lambda: engine.heartbeat.busy_s == 0)
        assert health.status().name == "ok"
        forward = engine._core.executor.forward

        def hangs(batch):
            assert goes_on.wait(60)
            return forward(batch)

        engine._core.executor.forward = hangs
        job = engine._start(_long(1), None)
        until(lambda: health.status().name == "stalled")
        assert "completed no step" in health.status().reason
        goes_on.set()
        job.outputs.result(timeout=60)
        until(lambda: health.status().name == "ok")
        until(lambda: engine.heartbeat.busy_s == 0)


def test_an_engine_that_turns_without_progress_is_stalled():
    with Engine("tiny", num_threads=1) as engine:
        health = Health(engine, Traffic(), stall_s=0.1)
        step, turns = engine._core.step, []

        def idles():
            turns.append(time.sleep(0.001))
            return []

        engine._core.step = idles
        job = engine._start(_long(4000), None)
        until(lambda: health.status().name == "stalled")
        assert len(turns) > 1, "its thread does turn"
        engine._core.step = step
        until(lambda: engine.heartbeat.steps > 2)
        engine.abort_all()
        job.outputs.result(timeout=60)
        until(lambda: engine.heartbeat.busy_s == 0)
        assert health.status().name == "ok"


def test_each_completed_step_is_a_beat():
    with Engine("tiny", num_threads=1) as engine:
        forward, beats = engine._core.executor.forward, []

        def noted(batch):
            beats.append(engine._loop.busy_since)
            return forward(batch)

        engine._core.executor.forward = noted
        engine.generate("x", SamplingParams(max_new_tokens=20, ignore_eos=True))
        assert len(beats) >= 20 and beats == sorted(set(beats))


def _long(num_tokens):
    sampling = SamplingParams(max_new_tokens=num_tokens, ignore_eos=True)
    return GenerateRequest((1, 2, 3), sampling)


@pytest.mark.parametrize("is_draining", [False, True])
def test_an_engine_that_ended_is_stopped_and_a_drain_is_told(is_draining):
    engine = Engine("tiny", num_threads=1)
    health = Health(engine, Traffic(is_draining=is_draining))
    assert health.status().name == ("draining" if is_draining else "ok")
    engine.close()
    assert health.status().name == "stopped"
