"""Calls into a world that may block, or never return.

run_blocking(call, *args, timeout_s=...)    in a thread of its own

The loop's own pool of threads would not do: worlds that hang would use it up, and the program
could not end while they run. Here a hung call costs one daemon thread, which ends with the
process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from evolute.types import EpisodeError, RequestError


async def run_blocking(call: Callable[..., Any], *args: Any, timeout_s: float) -> Any:
    """The call's result or exception. Raises TimeoutError after `timeout_s` seconds.

    Exceptions that would mean something else to the caller become EpisodeError: those that end
    loops and programs (SystemExit, CancelledError, StopIteration), and RequestError, which here is
    about the world's own requests.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def deliver(result: Any, error: Exception | None) -> None:
        if future.done():  # timed out or cancelled meanwhile
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = call(*args)
        except BaseException as raised:
            error = _harmless(raised)
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, daemon=True, name="evolute-env").start()
    try:
        return await asyncio.wait_for(future, timeout_s)
    except TimeoutError as error:
        if not future.cancelled():  # the call's own
            raise
        name = getattr(call, "__qualname__", repr(call))
        raise TimeoutError(f"{name} did not return within {timeout_s:g} s.") from error


def _harmless(raised: BaseException) -> Exception:
    foreign = not isinstance(raised, Exception) or isinstance(raised, StopIteration | RequestError)
    if not foreign:
        assert isinstance(raised, Exception)
        return raised
    wrapped = EpisodeError(f"the world raised {type(raised).__name__}: {raised}")
    wrapped.__cause__ = raised
    return wrapped
