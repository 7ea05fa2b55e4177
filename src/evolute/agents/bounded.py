"""Foreign coroutines within a time, whatever they do: return, raise, hang, or refuse to end.

await within(coroutine, limit_s, what, grace_s)    its result; StageTimeout after limit_s
await to_its_end(coroutine, limit_s)               even when we are cancelled meanwhile
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from evolute.types import EpisodeError

T = TypeVar("T")


class StageTimeout(EpisodeError, TimeoutError):
    """Something foreign did not end within its limit."""


async def within(coroutine: Coroutine[Any, Any, T], limit_s: float, what: str, grace_s: float) -> T:
    """The coroutine's result or exception; one that ends programs becomes EpisodeError.

    On timeout and on cancellation it is cancelled and has `grace_s` to end; after that it is left
    behind.
    """
    task = asyncio.create_task(_guarded(coroutine))
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            raise StageTimeout(f"{what} did not end within {limit_s:g} s.")
        if task.cancelled():
            raise EpisodeError(f"{what} was cancelled from within.")
        return task.result()
    finally:
        task.add_done_callback(_seen)
        if not task.done():
            task.cancel()
            await _patiently(task, grace_s)


async def to_its_end(coroutine: Coroutine[Any, Any, None], limit_s: float) -> BaseException | None:
    """Run it to its end or for `limit_s`; what it raised, or StageTimeout, is returned. A
    cancellation of ours while it runs is put off, and raised when it has ended."""
    task = asyncio.create_task(_guarded(coroutine))
    task.add_done_callback(_seen)
    await _patiently(task, limit_s)
    if not task.done():
        task.cancel()
        return StageTimeout(f"it did not end within {limit_s:g} s.")
    return EpisodeError("cancelled from within") if task.cancelled() else task.exception()


# -- internals ---------------------------------------------------------------


def _seen(task: asyncio.Task[Any]) -> None:
    """What is raised after nobody waits any more is no news for the log."""
    if not task.cancelled():
        task.exception()


async def _patiently(task: asyncio.Task[Any], limit_s: float) -> None:
    """Wait for its end; a cancellation meanwhile shortens nothing and is raised afterwards."""
    loop = asyncio.get_running_loop()
    ends_s, cancelled = loop.time() + limit_s, None
    while not task.done() and (left_s := ends_s - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _guarded(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return await coroutine
    except SystemExit as error:
        raise EpisodeError(f"SystemExit was raised: {error}") from error
