"""Thousands of programs at once in one process: no thread each, failures stay alone."""

import asyncio
import threading
import time
import tracemalloc

import pytest

import evolute.lang as sgl
from evolute.engine import Engine
from evolute.lang.account import Spent
from evolute.lang.backend import Reply
from evolute.testing import ScriptedTextBackend
from evolute.types import BackendError, FinishReason, Output, ProgramError

COUNT = 5_000
FEW_SHOT = "Q: 1 + 1\nA: 2\nQ: 2 + 3\nA: 5\nQ: 10 + 7\nA: 17\nQ: 5 + 5\nA: 10\nQ: 8 + 1\nA: 9\n"


@sgl.function
def steps(s, number):
    s += FEW_SHOT + f"Q: {number}\nA:"
    s += sgl.gen("thought", max_tokens=8)
    if s["thought"]:  # a plain function that waits in the middle
        s += " so " + sgl.gen("answer", max_tokens=8)
    return s["answer"]


def test_five_thousand_programs_wait_at_once_and_every_fiftieth_fails_alone():
    waiting, most, threads = 0, 0, set()

    class Slow(ScriptedTextBackend):
        all_are_here = asyncio.Event()

        async def generate(self, request):
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            threads.add(threading.active_count())
            try:
                if most == COUNT:
                    self.all_are_here.set()
                await self.all_are_here.wait()  # nobody is answered before all have asked
                number = int(request.prompt.text[len(FEW_SHOT) :].split()[1].removesuffix("A:"))
                if number % 50 == 0 and " so " in request.prompt.text:
                    raise BackendError(f"no answer to {number}")
                return await super().generate(request)
            finally:
                waiting -= 1

    before = threading.active_count()
    told = FinishReason.STOP
    output = Output("yes", (*b"yes", 256), (0.0,) * 4, told, 0, 0, 9, matched_stop=256)
    backend = Slow([Reply((output,), Spent(1, 9, 0, 4))])
    states = steps.run_batch([(i,) for i in range(COUNT)], backend=backend)
    assert most == COUNT and max(threads) <= before + 1
    for i, state in enumerate(states):
        if i % 50:
            assert state["answer"] == "yes" and state.error() is None
        else:
            assert state["thought"] == "yes"
            pattern = rf"gen 'answer' \(test_many_programs.py:\d+\): no answer to {i}$"
            with pytest.raises(ProgramError, match=pattern) as caught:
                state["answer"]
            assert isinstance(caught.value.__cause__, BackendError)
    assert [p.text for p in backend.prepared] == [FEW_SHOT + "Q: "]
    total = sum((state.spent for state in states), Spent())
    assert total.calls == 2 * COUNT + 1  # and the hint


def test_a_program_costs_kilobytes():
    """What 1,000 programs hold while all of them wait, prompts and results included."""
    gate = asyncio.Event()

    class Held(ScriptedTextBackend):
        async def generate(self, request):
            self.requests.append(request)
            await gate.wait()
            return await super().generate(request)

    async def measure():
        backend = Held(["x"])
        tracemalloc.start()
        begin = tracemalloc.get_traced_memory()[0]
        task = asyncio.create_task(steps.arun_batch([(i,) for i in range(1_000)], backend=backend))
        ends = time.monotonic() + 60
        while len(backend.requests) < 1_000:
            assert time.monotonic() < ends
            await asyncio.sleep(0.01)
        held = tracemalloc.get_traced_memory()[0] - begin
        tracemalloc.stop()
        gate.set()
        await task
        return held / 1_000

    assert asyncio.run(measure()) < 64 * 1024


def test_programs_on_the_engine_share_their_prefix_and_account_for_every_token():
    with Engine("tiny", page_size=4) as engine:
        states = steps.run_batch(
            [(i,) for i in range(60)], backend=engine, max_new_tokens=8, temperature=0
        )
        counts = engine.stats().counts
        engine.check()
    assert all(state.error() is None or state["thought"] == "" for state in states)
    total = sum((state.spent for state in states), Spent())
    assert total.output_tokens == counts.output_tokens
    assert total.cached_tokens == counts.cached_tokens
    assert total.prompt_tokens - total.cached_tokens <= counts.computed_tokens
    shared = len(FEW_SHOT) // 4 * 4
    assert total.cached_tokens >= 60 * shared
