"""What does the language itself cost, when thousands of programs wait at the same time?

    run_many(count) -> figures

Each program makes two gens with a wait between them, on a double that answers when all have asked:
so all of them are in flight at once, twice. Every fiftieth fails, and has to say where.
"""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import evolute.lang as sgl
from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextRequest
from evolute.types import BackendError, Delta, FinishReason, NotSupported, Output, ProgramError

EVERY, WAIT_S = 50, 120.0
HEAD = "".join(f"Q: {i} + {i}\nA: {2 * i}\n" for i in range(9))


@sgl.function
def two_steps(s: Any, number: int) -> None:
    s += f"{HEAD}Q: {number}\nA:" + sgl.gen("thought", max_tokens=8)
    if s["thought"]:
        s += " so " + sgl.gen("answer", max_tokens=8)


def run_many(count: int) -> dict[str, float]:
    """Raises AssertionError when a failing program does not name its gen, or others fail."""
    seconds = _timed(count)
    return {
        "many/programs": float(count),
        "many/seconds": seconds,
        "many/ms_per_program": 1000 * seconds / count,
        "many/kb_per_waiting_program": _kilobytes(min(count, 1000)),
    }


# -- internals ---------------------------------------------------------------


class _Together:
    """A text backend that says yes, and nothing before `count` have asked."""

    model_name = "yes"
    capabilities = Capabilities(completes=True)

    def __init__(self, count: int) -> None:
        output = Output("yes", (), (), FinishReason.STOP, 0, 0, prompt_tokens=9)
        self._reply = Reply((output,), Spent(1, 9, 0, 4))
        self._count, self._all = count, asyncio.Event()
        self.waiting, self.threads = 0, 0

    async def generate(self, request: TextRequest) -> Reply:
        self.waiting += 1
        self.threads = max(self.threads, threading.active_count())
        if self.waiting == self._count:
            self._all.set()
        await asyncio.wait_for(self._all.wait(), WAIT_S)
        number = int(request.prompt.text[len(HEAD) :].split()[1].removesuffix("A:"))
        if number % EVERY == 0 and " so " in request.prompt.text:
            raise BackendError(f"no answer to {number}")
        return self._reply

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        yield await self.generate(request)

    async def prepare(self, prompt: Prompt) -> Spent:
        return Spent()

    async def aclose(self) -> None:
        """Nothing is open."""

    async def refuse(self, *_: Any, **__: Any) -> Any:
        raise NotSupported("this double only says yes.")

    encode = decode = score = render = flush = describe = refuse


def _timed(count: int) -> float:
    backend = _Together(count)
    threads, started = threading.active_count(), time.perf_counter()
    states = two_steps.run_batch([(i,) for i in range(count)], backend=backend)
    seconds = time.perf_counter() - started
    assert backend.threads <= threads + 1, "a program has no thread of its own"
    for number, state in enumerate(states):
        error = state.error()
        assert (error is None) == bool(number % EVERY), f"program {number}: {error}"
        if error is not None:
            assert isinstance(error, ProgramError) and "gen 'answer' (many.py:" in str(error)
    return seconds


def _kilobytes(count: int) -> float:
    """What Python holds for each program while all of them wait, prompts included."""

    async def measure() -> float:
        backend = _Together(count + 1)  # nobody is answered
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            batch = [(i,) for i in range(count)]
            task = asyncio.create_task(two_steps.arun_batch(batch, backend=backend))
            ends = time.monotonic() + WAIT_S
            while backend.waiting < count and time.monotonic() < ends:
                await asyncio.sleep(0.01)
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT_S)
        return held / count / 1024

    return asyncio.run(measure())
