"""In which order are the programs of a batch sent, and what do they share?

    gate = Gate(backend, limit)
    await gate.open(runs, pre_cache=True)    once all have been started
    await gate.enter(run, prompt)            before a program's first call
    gate.leave(run)                          when the program has ended

Every program runs up to its first call and waits here. Then all first prompts are known as they
really are: what they have in common is computed once, and they are let in by the order of their
texts, at most `limit` at a time, so that neighbours share what they can.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from evolute.lang.backend import Prompt, Text
from evolute.lang.interpreter.steps import hint
from evolute.lang.interpreter.stream import Run
from evolute.lang.tracing import common_prefix

POLL_S = 0.001
MIN_SHARED_CHARS = 64  # a shorter prefix is not worth a call


class Gate:
    """Belongs to one batch. `limit` None: as many as there are."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._waiting: dict[Run, tuple[Prompt, asyncio.Future[None]]] = {}
        self._in_line: deque[Run] = deque()
        self._inside: set[Run] = set()
        self._is_open = False

    async def enter(self, run: Run, prompt: Prompt) -> None:
        """A program that is inside is not held again."""
        if run in self._inside:
            return
        if run not in self._waiting:
            self._waiting[run] = (prompt, asyncio.get_running_loop().create_future())
            self._in_line.append(run)
        future = self._waiting[run][1]
        if self._is_open:
            self._let_in()
        await asyncio.wait({future})

    def leave(self, run: Run) -> None:
        self._inside.discard(run)
        found = self._waiting.pop(run, None)
        if found is not None:
            self._in_line.remove(run)
            found[1].cancel()
        if self._is_open:
            self._let_in()

    async def open(self, runs: Sequence[Run], *, pre_cache: bool) -> None:
        """Waits for those that are on their way; one that waits on the world is not awaited."""
        for run in runs:
            while not run.has_begun or (run.is_busy and run not in self._waiting):
                await asyncio.sleep(POLL_S)
        self._in_line = deque(sorted(self._in_line, key=lambda run: self._waiting[run][0].text))
        try:
            if pre_cache and len(self._in_line) > 1:
                await self._prepare([self._waiting[run][0] for run in self._in_line])
        finally:
            self._is_open = True
            self._let_in()

    # -- internals ---------------------------------------------------------------

    async def _prepare(self, prompts: Sequence[Prompt]) -> None:
        shared = common_prefix([prompt.text for prompt in prompts])
        if len(shared) > MIN_SHARED_CHARS:
            await hint(self._in_line[0], replace(prompts[0], pieces=(Text(shared),)))

    def _let_in(self) -> None:
        while self._in_line and (self._limit is None or len(self._inside) < self._limit):
            run = self._in_line.popleft()
            _, future = self._waiting.pop(run)
            self._inside.add(run)
            if not future.done():
                future.set_result(None)
