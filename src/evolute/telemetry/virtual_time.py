"""How long would it take? An asyncio loop whose time jumps to the next timer.

    run_virtual(main())                     asyncio.run, in no time; returns what main returns
    run_virtual(main(), limit_s=3600)       VirtualTimeout once so much virtual time has passed
    VirtualTimeLoop()                       the loop itself; loop.time() is the virtual clock

Code that waits by asyncio alone (sleep, timeouts, queues, events) runs unchanged: when nothing is
ready, time moves to the next timer. A thread that the loop was given (`to_thread`,
`run_in_executor`) is waited for in real time and costs no virtual time. Sockets, subprocesses and
futures of threads that the loop does not know are not waited for.

When nothing is ready, no timer is set and no thread runs, nothing can ever happen: NothingToWaitFor
names the tasks that wait and where.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
THREAD_LIMIT_S = 120.0  # real seconds that a thread may take


class NothingToWaitFor(RuntimeError):
    """Every task waits for another: a dead-lock."""


class VirtualTimeout(TimeoutError):
    """The virtual clock has passed the limit of the run."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, in seconds from `start_s`."""

    def __init__(self, start_s: float = 0.0, limit_s: float = math.inf) -> None:
        self._clock = _JumpingSelector(start_s, start_s + limit_s)
        super().__init__(self._clock)

    def time(self) -> float:
        """Virtual seconds."""
        return self._clock.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As asyncio's; virtual time stands still until the thread is done."""
        self._clock.num_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As asyncio's, which waits for a thread."""
        self._clock.num_threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._clock.num_threads -= 1

    @property
    def _clock_resolution(self) -> float:
        """asyncio's name: timers that are due so soon are due now. A float near 1e7 seconds is too
        coarse for its nanosecond, and the timer would never be due."""
        return max(1e-9, 2 * math.ulp(self._clock.now_s))

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """asyncio sets the real clock's."""

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._clock.num_threads -= 1


def run_virtual(
    main: Coroutine[Any, Any, T], *, start_s: float = 0.0, limit_s: float = math.inf
) -> T:
    """Run a coroutine on a loop of its own to its end; what it left running is cancelled.

    Raises VirtualTimeout after `limit_s` virtual seconds, NothingToWaitFor in a dead-lock.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start_s, limit_s)) as runner:
        return runner.run(main)


# -- internals ---------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait, time moves instead."""

    def __init__(self, start_s: float, end_s: float) -> None:
        super().__init__()
        self.now_s, self._end_s = start_s, end_s
        self.num_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self.num_threads:
            return self._await_thread()
        if timeout is None:
            raise NothingToWaitFor(_dead_lock())
        later_s = max(self.now_s + timeout, math.nextafter(self.now_s, math.inf))
        if later_s > self._end_s:
            end_s, self._end_s = self._end_s, math.inf  # what is cancelled now may still wait
            raise VirtualTimeout(f"{end_s:g} virtual seconds have passed and the run goes on.")
        self.now_s = later_s
        return events

    def _await_thread(self) -> list[tuple[selectors.SelectorKey, int]]:
        until_s = time.monotonic() + THREAD_LIMIT_S
        while time.monotonic() < until_s:
            if events := super().select(1.0):
                return events
        raise TimeoutError(f"{self.num_threads} threads did not end within {THREAD_LIMIT_S:g} s.")


def _dead_lock() -> str:
    tasks = [task for task in asyncio.all_tasks(asyncio.get_running_loop()) if not task.done()]
    lines = [f"{len(tasks)} tasks wait, no timer is set and no thread runs:"]
    for task in sorted(tasks, key=lambda task: task.get_name()):
        stack = task.get_stack(limit=1)
        where = f"{stack[-1].f_code.co_qualname}, line {stack[-1].f_lineno}" if stack else "?"
        lines.append(f"  {task.get_name()} in {where}")
    return "\n".join(lines)
