"""What is a variable of a stream, and who waits for it?

    variables.declare(name)            it will be set; until then reading waits
    variables.set(name, value, meta)   by the gen that makes it, or by the program
    variables.fail(error)              all that are still open
    await variables.read(name)
    variables.peek(name)               its value at once, or NotYet

Invariant: a declared variable is set or failed once its stream has ended, so no read waits on
nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from evolute.types import ProgramError


class NotYet(Exception):
    """The variable is declared and not set."""


class Variables:
    """Values by name, in the order of their declaration."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: dict[str, asyncio.Future[Any]] = {}
        self.meta: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._futures

    def names(self) -> list[str]:
        return list(self._futures)

    def declare(self, name: str) -> None:
        """A variable that was set before is set anew; readers from here on wait for that."""
        found = self._futures.get(name)
        if found is None or found.done():
            self._futures[name] = self._loop.create_future()

    def set(self, name: str, value: Any, meta: Any = None) -> None:
        future = self._futures.get(name)
        if future is None or future.done():
            future = self._futures[name] = self._loop.create_future()
        if meta is not None:
            self.meta[name] = meta
        future.set_result(value)

    def set_error(self, name: str, error: Exception) -> None:
        self._futures[name] = future = self._loop.create_future()
        _fail(future, error)

    def fail(self, error: Exception) -> None:
        for future in self._futures.values():
            if not future.done():
                _fail(future, error)

    def is_set(self, name: str) -> bool:
        """Set, and not failed."""
        future = self._futures.get(name)
        return future is not None and future.done() and future.exception() is None

    async def read(self, name: str) -> Any:
        future = self._futures[name]
        if not future.done():
            await asyncio.wait({future})
        return _value(future)

    def peek(self, name: str) -> Any:
        """Raises KeyError for a name that is not declared, NotYet for one that is not set."""
        future = self._futures[name]
        if not future.done():
            raise NotYet(name)
        return _value(future)

    def copy_to(self, other: Variables) -> None:
        """What is set, for a branch that goes on from here."""
        for name, future in self._futures.items():
            if future.done():
                other._futures[name] = future
        other.meta.update(self.meta)


# -- internals ---------------------------------------------------------------


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # it is told where the variable is read


def _value(future: asyncio.Future[Any]) -> Any:
    """Each reader gets an error of its own, with a traceback of its own."""
    error = future.exception()
    if isinstance(error, ProgramError):
        raise ProgramError(*error.args) from error.__cause__
    return future.result()
