"""Health is told from the heartbeat: true when the engine hangs, and while it works long."""

import time

import pytest

from evolute.engine import Engine
from evolute.server.health import Health
from evolute.server.limits import Traffic
from evolute.types import SamplingParams


def test_an_engine_that_hangs_in_a_turn_is_stalled_until_it_goes_on():
    with Engine("tiny", num_threads=1) as engine:
        health = Health(engine, Traffic(), stall_s=0.1)
        assert health.status().name == "ok"
        time.sleep(0.3)
        assert health.status().name == "ok"  # nothing to do is no fault
        forward, seen = engine._core.executor.forward, []

        def hangs(batch):
            time.sleep(0.4)
            seen.append(health.status())
            return forward(batch)

        engine._core.executor.forward = hangs
        engine.generate("x", SamplingParams(max_new_tokens=1))
        assert seen[0].name == "stalled" and "completed no step" in seen[0].reason
        time.sleep(0.05)
        assert health.status().name == "ok"


def test_an_engine_that_turns_without_progress_is_stalled():
    with Engine("tiny", num_threads=1) as engine:
        health = Health(engine, Traffic(), stall_s=0.2)
        step, turns = engine._core.step, []

        def idles():
            turns.append(time.sleep(0.01))
            return []

        engine._core.step = idles
        job = engine._start(_long(), None)
        time.sleep(0.1)
        assert health.status().name == "ok"
        time.sleep(0.4)
        assert health.status().name == "stalled" and len(turns) > 5
        engine._core.step = step
        time.sleep(0.1)
        assert health.status().name == "ok"
        engine.abort_all()
        job.outputs.result(timeout=20)
        time.sleep(0.3)
        assert health.status().name == "ok"


def test_many_short_turns_are_no_stall():
    with Engine("tiny", num_threads=1) as engine:
        health = Health(engine, Traffic(), stall_s=0.2)
        job = engine._start(_long(), None)
        before, ends = engine.heartbeat, time.monotonic() + 0.6
        while time.monotonic() < ends and not job.outputs.done():
            assert health.status().name == "ok"
            time.sleep(0.01)
        assert engine.heartbeat.output_tokens > before.output_tokens
        engine.abort_all()


def _long():
    from evolute.types import GenerateRequest

    return GenerateRequest((1, 2, 3), SamplingParams(max_new_tokens=4000, ignore_eos=True))


@pytest.mark.parametrize("is_draining", [False, True])
def test_an_engine_that_ended_is_stopped_and_a_drain_is_told(is_draining):
    engine = Engine("tiny", num_threads=1)
    health = Health(engine, Traffic(is_draining=is_draining))
    assert health.status().name == ("draining" if is_draining else "ok")
    engine.close()
    assert health.status().name == "stopped"
