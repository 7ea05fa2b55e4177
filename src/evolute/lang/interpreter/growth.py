"""What became visible, piece by piece, for those who read while a program runs?

    growth.add(text)                 the prompt has grown
    growth.begin(name), chunk(...)   a gen's text as it comes, with its tokens
    growth.end(name)                 the gen is done
    async for text in growth.texts(is_over)
    async for text, meta in growth.chunks(name, is_over)

With meta data a chunk that shows nothing is held and its tokens go with the next one that does,
or with the last: every chunk has text, and their log-probabilities are those of all tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

Meta = dict[str, Any]
LISTS = ("output_token_logprobs", "output_top_logprobs")  # joined; other fields: the latest


@dataclass(slots=True)
class _Variable:
    chunks: list[tuple[str, Meta]] = field(default_factory=list)
    is_done: bool = False


class Growth:
    """`is_kept` for streaming runs; for others nobody reads it."""

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self._texts: list[str] = []
        self._variables: dict[str, _Variable] = {}
        self._changed = asyncio.Event()

    def add(self, text: str) -> None:
        if self.is_kept and text:
            self._texts.append(text)
            self.wake()

    def begin(self, name: str) -> None:
        self._variables[name] = _Variable()

    def chunk(self, name: str, text: str, meta: Meta) -> None:
        self._variables[name].chunks.append((text, meta))
        self.wake()

    def end(self, name: str, text: str = "", meta: Meta | None = None) -> None:
        """A gen that was not streamed comes in one piece."""
        if self.is_kept:
            variable = self._variables.setdefault(name, _Variable())
            if not variable.chunks:
                variable.chunks.append((text, meta or {}))
            variable.is_done = True
            self.wake()

    def wake(self) -> None:
        """Tell the readers to look again."""
        if self.is_kept:
            self._changed.set()
            self._changed = asyncio.Event()

    async def texts(self, is_over: Callable[[], bool]) -> AsyncIterator[str]:
        """What the prompt grew by, from the beginning, until `is_over`."""
        told = 0
        while True:
            changed, over = self._changed, is_over()
            new = "".join(self._texts[told:])
            told = len(self._texts)
            if new:
                yield new
            elif over:
                return
            else:
                await changed.wait()

    async def chunks(
        self, name: str, is_over: Callable[[], bool], *, with_meta: bool = False
    ) -> AsyncIterator[tuple[str, Meta]]:
        """A variable's text with what belongs to it, once it begins until it is done."""
        while name not in self._variables:
            changed = self._changed
            if is_over():
                return
            await changed.wait()
        variable, told = self._variables[name], 0
        whole = _Whole()
        while True:
            changed, over = self._changed, variable.is_done or is_over()
            new, told = variable.chunks[told:], len(variable.chunks)
            for text, meta in new:
                if not with_meta:
                    if text:
                        yield text, meta
                elif (ready := whole.push(text, meta)) is not None:
                    yield ready
            if over:
                break
            await changed.wait()
        if whole.held is not None and whole.held[0]:
            yield whole.held


# -- internals ---------------------------------------------------------------


class _Whole:
    """Gives a chunk out when the next one that shows something has come."""

    def __init__(self) -> None:
        self.held: tuple[str, Meta] | None = None

    def push(self, text: str, meta: Meta) -> tuple[str, Meta] | None:
        held = self.held
        if held is not None and held[0] and text:
            self.held = (text, meta)
            return held
        self.held = (text, meta) if held is None else (held[0] + text, _joined(held[1], meta))
        return None


def _joined(one: Meta, other: Meta) -> Meta:
    lists = {name: [*one.get(name, ()), *other[name]] for name in LISTS if name in other}
    return {**one, **other, **lists}
