import asyncio
import threading
import time

import pytest

from evolute.envs.blocking import run_blocking
from evolute.types import EpisodeError, PromptTooLong


def run(call, timeout_s=5.0):
    return asyncio.run(run_blocking(call, timeout_s=timeout_s))


def fail(error):
    raise error


def test_the_result_or_the_exception_comes_through():
    assert run(lambda: 5) == 5
    with pytest.raises(KeyError, match="x"):
        run(lambda: fail(KeyError("x")))
    with pytest.raises(TimeoutError, match="the world's own"):
        run(lambda: fail(TimeoutError("the world's own")))


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(),
        PromptTooLong(),
    ],
    ids=repr,
)
def test_what_would_stop_the_loop_is_an_error_of_the_episode(error):
    with pytest.raises(EpisodeError, match=type(error).__name__) as caught:
        run(lambda: fail(error))
    assert caught.value.__cause__ is error


def test_calls_that_hang_leave_room_for_others():
    free = threading.Event()

    async def many():
        hung = [run_blocking(free.wait, timeout_s=0.2) for _ in range(60)]
        results = await asyncio.gather(
            *hung, run_blocking(lambda: 1, timeout_s=5), return_exceptions=True
        )
        return results

    started = time.monotonic()
    try:
        *hung, last = asyncio.run(many())  # ends though the threads still wait
    finally:
        free.set()
    assert last == 1 and all(isinstance(error, TimeoutError) for error in hung)
    assert "Event.wait did not return within 0.2 s" in str(hung[0])
    assert time.monotonic() - started < 10


def test_a_result_that_comes_too_late_is_dropped():
    free = threading.Event()

    async def late():
        with pytest.raises(TimeoutError):
            await run_blocking(free.wait, timeout_s=0.05)
        free.set()
        await asyncio.sleep(0.05)  # an unretrieved result would warn, and warnings are errors

    asyncio.run(late())
