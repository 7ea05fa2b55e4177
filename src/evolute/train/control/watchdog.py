"""Who waits for whom, since when? And when nothing moves any more, the run fails and says so.

    waits = Waits(limit_s)
    with waits.on("trainer", "a finished group", lambda: ["group 7"]): await ...
    waits.moved()            something came to its end
    waits.dump()             the wait-for graph as text
    await waits.guard(work)  the work's result; TrainingError with the dump once nothing has moved
                             for limit_s

Time is the event loop's, so the same holds on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from evolute.types import TrainingError

T = TypeVar("T")
MAX_LINES = 40
CANCEL_S = 30.0  # how long what was cancelled may take to end


@dataclass(frozen=True, slots=True)
class Wait:
    """`who` waits for `what`, which is up to `whom()`, since `since_s` of the loop's clock."""

    who: str
    what: str
    whom: Callable[[], Sequence[str]]
    since_s: float


class Waits:
    """The waits of one run, and when it moved last."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._moved_s = limit_s, 0.0
        self._waits: dict[int, Wait] = {}
        self._next = 0

    @contextmanager
    def on(
        self, who: str, what: str, whom: Callable[[], Sequence[str]] = lambda: ()
    ) -> Iterator[None]:
        """Register a wait for as long as the block lasts."""
        self._next += 1
        key = self._next
        self._waits[key] = Wait(who, what, whom, _now())
        try:
            yield
        finally:
            del self._waits[key]

    def moved(self) -> None:
        """Something came to its end: the run is alive."""
        self._moved_s = _now()

    def dump(self) -> str:
        """One line a wait, the longest first; a cycle of names is told too."""
        now_s = _now()
        waits = sorted(self._waits.values(), key=lambda wait: wait.since_s)
        lines = [
            f"{wait.who} waits {now_s - wait.since_s:.1f} s for {wait.what}{_named(wait.whom())}"
            for wait in waits[:MAX_LINES]
        ]
        if len(waits) > MAX_LINES:
            lines.append(f"... and {len(waits) - MAX_LINES} more")
        cycle = find_cycle({wait.who: tuple(wait.whom()) for wait in waits})
        if cycle:
            lines.append(f"a circle: {' -> '.join(cycle)}")
        return "\n".join(lines) or "nobody waits"

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; when nothing moves for the limit, cancel it and raise TrainingError."""
        self.moved()
        task = asyncio.create_task(work, name="run")
        try:
            while not task.done():
                left_s = self._moved_s + self._limit_s - _now()
                if left_s <= 0:
                    raise TrainingError(
                        f"nothing has moved for {self._limit_s:g} s (stall_timeout_s). Who waits "
                        f"for whom:\n{self.dump()}"
                    )
                await asyncio.wait({task}, timeout=left_s)
            return task.result()
        finally:
            await cancel([task])


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what is not done, and wait for its end, with a limit."""
    open_ = [task for task in tasks if not task.done()]
    for task in open_:
        task.cancel()
    if open_:
        await asyncio.wait(open_, timeout=CANCEL_S)


def find_cycle(edges: dict[str, tuple[str, ...]]) -> list[str]:
    """Names that wait for each other in a circle, the first one again at the end; [] if none."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack = [iter((start,))]
        while stack:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                return path[path.index(name) :] + [name]
            elif name not in done:
                path.append(name)
                stack.append(iter(edges.get(name, ())))
    return []


# -- internals ---------------------------------------------------------------


def _now() -> float:
    return asyncio.get_running_loop().time()


def _named(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" <- {', '.join(names[:5])}{more}"
