"""A fault in the engine's own accounts while it runs ends requests, never the engine."""

import threading

import pytest

from evolute.engine import Engine
from evolute.engine.scheduling import Speculator
from evolute.models import load_model
from evolute.types import FinishReason, GenerateRequest, SamplingParams

TINY = load_model("tiny")
GREEDY = SamplingParams(temperature=0, max_new_tokens=30, ignore_eos=True)


@pytest.fixture
def engine():
    with Engine(TINY, page_size=4, memory_mb=4, num_threads=1, max_running=4) as engine:
        yield engine


class Ears:
    """Listens to one request."""

    def __init__(self):
        self.outputs, self.ended = [], threading.Event()

    def __call__(self, delta):
        if delta.output is not None:
            self.outputs.append(delta.output)
            self.ended.set()


def start(engine, count, sampling=GREEDY):
    """So many in flight, a step or more after their start."""
    ears = [Ears() for _ in range(count)]

    def add():
        for number, one in enumerate(ears):
            engine._loop.add(GenerateRequest((number, 1, 2, 3), sampling), None, one)

    engine._loop.call(add)
    return ears


def breaks(times):
    """A function that fails so often and then does nothing."""
    left = [times]

    def fail(*_):
        if left[0]:
            left[0] -= 1
            raise KeyError("account")

    return fail


def lives_on(engine, ears):
    for one in ears:
        assert one.ended.wait(20), "somebody waits for ever"
        assert len(one.outputs) == 1, "an end is told once"
    assert engine.is_alive
    after = engine.generate([5, 6, 7], GREEDY)[0]
    assert after.finish_reason is FinishReason.LENGTH and len(after.token_ids) == 30
    engine.check()


@pytest.mark.parametrize("where", ["release", "finish", "forget"])
def test_an_account_that_fails_at_every_end_does_not_end_the_thread(engine, monkeypatch, where):
    """Planning fails, and so does ending those that run."""
    core = engine._core
    engine.pause()
    ears = start(engine, 6)
    engine._loop.call(core.step)
    assert len(core.running) == 4
    broken = {
        "release": (core.placement, "release"),
        "finish": (core.queue, "finish"),
        "forget": (Speculator, "forget"),
    }[where]
    monkeypatch.setattr(*broken, breaks(3))
    monkeypatch.setattr(Speculator, "propose", breaks(1))
    engine.resume()
    for one in ears:
        assert one.ended.wait(20), "somebody waits for ever"
    monkeypatch.undo()
    assert all(e.outputs[0].finish_reason is FinishReason.ERROR for e in ears)
    lives_on(engine, ears)


def test_a_step_that_fails_after_somebody_ended_still_tells_of_that_end(engine, monkeypatch):
    """The first of two ends in the step in which the second breaks the accounts."""
    core = engine._core
    engine.pause()
    first, second = start(engine, 2, SamplingParams(temperature=0, max_new_tokens=1))
    made, calls = core.queue.made, []

    def fail_second(sequence):
        calls.append(sequence)
        if len(calls) == 2:
            raise ZeroDivisionError("service")
        made(sequence)

    monkeypatch.setattr(core.queue, "made", fail_second)
    engine.resume()
    assert first.ended.wait(20) and second.ended.wait(20)
    assert first.outputs[0].finish_reason is FinishReason.LENGTH
    monkeypatch.undo()
    lives_on(engine, [first, second])


def test_pages_freed_twice_while_running(engine):
    """The pool itself says so, again and again; then it begins anew."""
    engine.pause()
    ears = start(engine, 4)
    for _ in range(2):
        engine._loop.call(engine._core.step)
    running = engine._core.running[0]
    pages = running.pages[running.num_shared_pages :]
    assert pages
    engine._loop.call(lambda: engine._core.placement.pool.free(pages))
    engine.resume()
    lives_on(engine, ears)
    assert engine.stats().counts.repairs >= 1


def test_what_is_held_back_and_cannot_be_told_is_dropped(engine, monkeypatch):
    engine.pause()
    ears = start(engine, 2)
    engine._loop.call(engine._core.step)
    draft = engine._loop.in_flight()[0]
    draft.text_stream._held = None  # adding to it fails
    monkeypatch.setattr(engine._core.queue, "made", breaks(1))
    engine.resume()
    for one in ears:
        assert one.ended.wait(20)
    monkeypatch.undo()
    lives_on(engine, ears)
