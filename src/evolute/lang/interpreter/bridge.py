"""How does a plain function wait on an event loop, without a thread of its own?

    await drive(function, *args)    run it as a greenlet of the running loop
    wait(awaitable)                 within it: give way until the awaitable is done
    blocking(coroutine)             from outside any loop: run it on the facade's loop
    in_function()                   whether `wait` can be used here
    wait_on(loop, coroutine_of)     the same on a loop that is given, from wherever
    await_on(loop, coroutine_of)    from a coroutine of any loop
    call_on(loop, function)         a call on a loop's thread

A driven function runs on the loop's thread. When it waits, the loop goes on with others; so any
number of functions wait at once, for a few kilobytes each.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from evolute.types import ConfigError

T = TypeVar("T")
LOOK_S = 1.0  # between two looks at whether the user interrupts


class _Function(greenlet):  # type: ignore[misc]
    """A driven function; `loop` is the one that runs it."""

    loop: asyncio.AbstractEventLoop


async def drive(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """The function's value or exception. Cancelling raises CancelledError where it waits."""
    child = _Function(function)
    child.loop = asyncio.get_running_loop()
    child.gr_context = contextvars.copy_context()
    given: Any = child.switch(*args, **kwargs)
    while not child.dead:
        try:
            value = await given
        except GeneratorExit:
            _unwind(child)
            raise
        except BaseException as error:
            child.parent = getcurrent()
            given = child.throw(error)
        else:
            child.parent = getcurrent()
            given = child.switch(value)
    result: T = given
    return result


def wait(awaitable: Awaitable[T]) -> T:
    """Only within a driven function."""
    value: T = getcurrent().parent.switch(awaitable)
    return value


def in_function(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether a driven function calls this; of `loop`, when it is given."""
    current = getcurrent()
    return isinstance(current, _Function) and (loop is None or current.loop is loop)


def blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine of the facade's loop, or give way when a driven function calls.

    Raises ConfigError on the thread of the facade's loop, which would wait for itself.
    """
    if in_function():
        return wait(coroutine)
    loop = facade_loop()
    if _running_loop() is loop:
        coroutine.close()
        raise ConfigError("an async program cannot wait here; await arun, arun_batch or aget.")
    return result_of(asyncio.run_coroutine_threadsafe(coroutine, loop))


def wait_on(loop: asyncio.AbstractEventLoop, coroutine_of: Callable[[], Awaitable[T]]) -> T:
    """Raises ConfigError within a coroutine of that loop, which has to await instead."""
    if in_function(loop):
        return wait(coroutine_of())
    if is_on(loop):
        raise ConfigError(
            "an async program cannot wait here; await s.aget(name), s.async_sync() or s.afork(n), "
            "or write the function with a plain def."
        )
    if not loop.is_running():
        raise ConfigError("the event loop of this program has ended; read its results before.")
    return result_of(asyncio.run_coroutine_threadsafe(_awaited(coroutine_of), loop))


async def await_on(loop: asyncio.AbstractEventLoop, coroutine_of: Callable[[], Awaitable[T]]) -> T:
    if is_on(loop):
        return await coroutine_of()
    future = asyncio.run_coroutine_threadsafe(_awaited(coroutine_of), loop)
    return await asyncio.wrap_future(future)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """At once on its own thread, else there, waited for."""
    if is_on(loop) or not loop.is_running():
        function()
        return

    async def call() -> None:
        function()

    result_of(asyncio.run_coroutine_threadsafe(call(), loop))


def is_on(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread runs `loop`."""
    return _running_loop() is loop


def result_of(future: concurrent.futures.Future[T]) -> T:
    """Its value; an interrupt cancels it."""
    try:
        while True:
            try:
                return future.result(timeout=LOOK_S)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
    except BaseException:
        future.cancel()
        raise


def facade_loop() -> asyncio.AbstractEventLoop:
    """The loop of plain calls: one for the process, on a thread of its own, made when needed."""
    return _FACADE.loop()


# -- internals ---------------------------------------------------------------


class _Facade:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                thread = threading.Thread(
                    target=self._loop.run_forever, name="evolute-lang", daemon=True
                )
                thread.start()
            return self._loop


_FACADE = _Facade()


async def _awaited(coroutine_of: Callable[[], Awaitable[T]]) -> T:
    return await coroutine_of()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _unwind(child: _Function) -> None:
    """The coroutine is collected: the function's `finally` blocks run, and nothing is awaited."""
    child.parent = getcurrent()
    left = child.throw(GreenletExit)
    if not child.dead and hasattr(left, "close"):
        left.close()
