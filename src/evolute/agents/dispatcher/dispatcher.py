"""How do many long trajectories run at once without starving the model or flooding the machine?

    async with Dispatcher(config) as dispatcher:
        ending = await dispatcher.play(lifecycle, group=3)    one; call it for as many as you like
        endings = await dispatcher.run(lifecycles)            a batch, in its order
        dispatcher.cancel(group=3)

    .---------------------- live worlds: max_live -----------------------.
    | INIT (max_init) -> queue -> RUN (max_run) -> queue -> EVAL (max_eval) -> close
    '--------------------------------------------------------------------'

A full queue holds up the stage before it. Nearly finished groups go first. INIT and EVAL are tried
again. Whatever happens each trajectory ends exactly once and each started world is closed. It waits
by asyncio alone, so the simulation runs this very class. (The pipeline is SkyRL-Agent's, arXiv
2511.16108; bounded queues, the cap of live worlds, time limits, retries and clean-up are ours.)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

from evolute.agents.dispatcher.books import Books
from evolute.agents.dispatcher.gate import Gate, Ticket
from evolute.agents.dispatcher.journey import Journey
from evolute.agents.dispatcher.lifecycle import End, Ending, Lifecycle, Stage
from evolute.agents.dispatcher.settings import DispatchConfig
from evolute.types import ConfigError

T = TypeVar("T")
MAX_NAMED = 8  # of those who wait, in a line for people


class Dispatcher:
    """Belongs to the event loop that plays; `close` cancels what is inside."""

    def __init__(self, config: DispatchConfig | None = None) -> None:
        self.config = config or DispatchConfig()
        self.books = Books()
        self.gates = {stage: self._gate(stage, f"max_{stage}") for stage in Stage}
        self.queues = {  # before that stage
            stage: self._gate(f"queue before {stage}", "queue") for stage in (Stage.RUN, Stage.EVAL)
        }
        self._numbers = itertools.count()
        self._tasks: dict[int, asyncio.Task[Ending[Any]]] = {}
        self._is_closed = False

    async def __aenter__(self) -> Dispatcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def play(
        self, lifecycle: Lifecycle[T], *, group: Hashable = None, name: str = ""
    ) -> Ending[T]:
        """Run one trajectory to its end; failures are its ending. Cancelling the caller cancels it,
        with clean-up first. Raises ConfigError once the dispatcher is closed."""
        if self._is_closed:
            raise ConfigError("this dispatcher is closed; make another one.")
        task = self._begin(lifecycle, group, name)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})  # ends within grace_s and close_timeout_s
            raise
        return Ending(End.CANCELLED) if task.cancelled() else task.result()

    async def run(
        self, lifecycles: Iterable[Lifecycle[T]], groups: Iterable[Hashable] | None = None
    ) -> list[Ending[T]]:
        """A batch: endings in its order. Without `groups` each is a group of its own."""
        batch = list(lifecycles)
        named = [None] * len(batch) if groups is None else list(groups)
        tasks = [
            asyncio.create_task(self.play(one, group=group))
            for one, group in zip(batch, named, strict=True)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def cancel(self, group: Hashable) -> int:
        """Cancel a group's trajectories; they end as CANCELLED. Returns how many."""
        numbers = [n for n, ticket in self.books.inside.items() if ticket.group == group]
        for number in numbers:
            self._tasks[number].cancel()
        return len(numbers)

    async def close(self) -> None:
        """Cancel all and wait until they are cleaned up; nothing can be played afterwards."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def stats(self) -> dict[str, float]:
        """Counts, and for each stage: inside, waiting, peak, timeouts, retries."""
        books = self.books
        found = {"submitted": float(books.submitted), "inside": float(len(books.inside))}
        found |= {f"ended/{end}": float(books.ended[end]) for end in End}
        found |= {"starts": float(books.starts), "closes": float(books.closes)}
        found["close_failures"] = float(books.close_failures)
        for stage, gate in self.gates.items():
            found[f"{stage}/inside"] = float(gate.inside)
            found[f"{stage}/waiting"] = float(gate.waiting)
            found[f"{stage}/peak"] = float(gate.peak_inside)
            found[f"{stage}/timeouts"] = float(books.timeouts[stage])
            found[f"{stage}/retries"] = float(books.retries[stage])
        return found | {f"{s}/peak_queue": float(q.peak_inside) for s, q in self.queues.items()}

    def waits(self) -> list[str]:
        """Who waits for what: lines for a person who wonders why nothing moves."""
        lines = []
        for gate in (*self.gates.values(), *self.queues.values()):
            names = gate.names_waiting()
            if names:
                more = ", ..." if len(names) > MAX_NAMED else ""
                shown = ", ".join(names[:MAX_NAMED]) + more
                lines.append(f"{gate.name}: {gate.inside} of {gate.limit} inside; waiting: {shown}")
        return lines

    # -- internals ---------------------------------------------------------------

    def _gate(self, name: str, limit: str) -> Gate:
        return Gate(name, self.config.limit(limit), self._rank)

    def _rank(self, group: Hashable) -> float:
        return self.books.unfinished(group) if self.config.order == "groups" else 0

    def _begin(
        self, lifecycle: Lifecycle[T], group: Hashable, name: str
    ) -> asyncio.Task[Ending[T]]:
        number = next(self._numbers)
        own = ("alone", number) if group is None else group
        ticket = Ticket(number, own, name or f"trajectory {number}")
        self.books.enter(ticket)
        journey = Journey(ticket, lifecycle, self.config, self.gates, self.queues, self.books)
        task = asyncio.create_task(journey.lead(), name=ticket.name)
        self._tasks[number] = task

        def ended(task: asyncio.Task[Ending[T]]) -> None:
            del self._tasks[number]
            if task.cancelled():  # before its first step
                self.books.leave(ticket, Ending(End.CANCELLED))

        task.add_done_callback(ended)
        return task
