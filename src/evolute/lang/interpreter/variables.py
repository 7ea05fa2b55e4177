"""What is a variable of a stream, and who waits for it?

    variables.declare(name)            an expression will set it; until then reading waits
    variables.set(name, value, meta)   by that expression
    variables.assign(name, value)      by the program itself, at once
    variables.fail(error)              all that are still open
    variables.peek(name)               its value at once, or NotYet
    variables.future(name)             done when it is set

A name may be declared again: readers from then on wait for the later value. Expressions set their
variables in the order in which they declared them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from evolute.types import ProgramError


class NotYet(Exception):
    """The variable is declared and not set."""


class Variables:
    """Values by name, in the order of their declaration."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._latest: dict[str, asyncio.Future[Any]] = {}
        self._open: dict[str, deque[asyncio.Future[Any]]] = {}
        self.meta: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._latest

    def names(self) -> list[str]:
        return list(self._latest)

    def declare(self, name: str) -> None:
        self._latest[name] = future = self._loop.create_future()
        self._open.setdefault(name, deque()).append(future)

    def set(self, name: str, value: Any, meta: Any = None) -> None:
        waiting = self._open.get(name)
        if not waiting:
            self.assign(name, value, meta)
            return
        future = waiting.popleft()
        if self._latest[name] is future:
            self.meta[name] = meta
        future.set_result(value)

    def assign(self, name: str, value: Any, meta: Any = None) -> None:
        self._latest[name] = future = self._loop.create_future()
        self.meta[name] = meta
        future.set_result(value)

    def assign_error(self, name: str, error: Exception) -> None:
        self._latest[name] = future = self._loop.create_future()
        _fail(future, error)

    def fail(self, error: Exception) -> None:
        for waiting in self._open.values():
            while waiting:
                _fail(waiting.popleft(), error)

    def is_set(self, name: str) -> bool:
        """Set, and not failed."""
        future = self._latest.get(name)
        return future is not None and future.done() and future.exception() is None

    def future(self, name: str) -> asyncio.Future[Any]:
        return self._latest[name]

    def peek(self, name: str) -> Any:
        """Raises KeyError for a name that is not declared, NotYet for one that is not set, and
        what its expression failed with: to each reader an error of its own."""
        future = self._latest[name]
        if not future.done():
            raise NotYet(name)
        error = future.exception()
        if isinstance(error, ProgramError):
            raise ProgramError(*error.args) from error.__cause__
        return future.result()

    def copy_to(self, other: Variables) -> None:
        """What is set, for a branch that goes on from here."""
        for name, future in self._latest.items():
            if future.done():
                other._latest[name] = future
        other.meta.update(self.meta)


# -- internals ---------------------------------------------------------------


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # it is told where the variable is read
