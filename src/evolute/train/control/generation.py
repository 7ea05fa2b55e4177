"""Who keeps groups in flight? Admission, the groups' tasks, and looks at the engine's state.

    generation = Generation(parts, control, cap, buffer, state)
    generation.version       of the weights that new groups begin with
    generation.wake()        capacity may have changed
    await generation.run()   until cancelled, or a RequestError of a player
    await generation.close()

The order is slot, row, tag: a group that waits for its slot has neither a problem nor a version.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from evolute.train.control.buffer import Buffer
from evolute.train.control.cap import InFlightCap
from evolute.train.control.episodes import together
from evolute.train.control.groups import Group, Row
from evolute.train.control.parts import Parts
from evolute.train.control.pending import Entry
from evolute.train.control.rows import Played, Restored
from evolute.train.control.staleness import StalenessControl
from evolute.train.control.watchdog import cancel
from evolute.types import Problem, Rollout


class Generation:
    """The side of the rollouts of an asynchronous run."""

    def __init__(
        self,
        parts: Parts,
        control: StalenessControl,
        cap: InFlightCap,
        buffer: Buffer,
        state: Restored,
    ) -> None:
        self._parts, self._control, self._cap, self._buffer = parts, control, cap, buffer
        self.rows, self._played = state.rows, state.played
        self.version = 0
        self._tasks: dict[Row, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._fault: BaseException | None = None

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Begin groups whenever there is capacity."""
        looks = asyncio.create_task(self._look(), name="looks")
        looks.add_done_callback(lambda _: self.wake())
        try:
            while True:
                if self._fault is not None:
                    raise self._fault
                if looks.done():
                    looks.result()
                while self._capacity() > 0:
                    self._begin(self.rows.draw())
                self._changed.clear()
                with self._parts.waits.on("admission", "capacity", self._whom):
                    await self._changed.wait()
        finally:
            await cancel([looks])

    async def close(self) -> None:
        """Cancel what is in flight; each group gives its one message."""
        await cancel(list(self._tasks.values()))

    # -- internals ---------------------------------------------------------------

    def _capacity(self) -> int:
        """Nothing is begun that no step will use."""
        control, config = self._control, self._parts.config
        needed = config.steps * config.prompts_per_step - control.accepted - control.running
        return min(control.capacity, self._cap.room(control.running), needed)

    def _whom(self) -> list[str]:
        control = self._control
        is_full = control.running >= min(self._cap.cap, control.max_concurrent)
        return [f"group {row.number}" for row in self._buffer.in_flight] if is_full else ["trainer"]

    def _begin(self, row: Row) -> None:
        size = self._parts.config.samples_per_prompt
        self._control.submit()
        self._cap.begun()
        self._buffer.begun(row, size)
        played = self._played.setdefault(row.key, Played(self.version))
        task = asyncio.create_task(self._group(row, played), name=f"group {row.number}")
        self._tasks[row] = task
        task.add_done_callback(partial(self._done, row))

    def _done(self, row: Row, task: asyncio.Task[Any]) -> None:
        """A task that was cancelled before its first line still gives its group's message."""
        del self._tasks[row]
        if row in self._buffer.in_flight:
            self._control.cancel()
            self._buffer.cancelled(row)
            self.rows.give_back(row)
        if not task.cancelled() and task.exception() is not None:
            self._fault = self._fault or task.exception()
        self._changed.set()

    async def _group(self, row: Row, played: Played) -> None:
        """Play what is not played yet; rollouts are on disk before anybody counts them."""
        problem = self._parts.source.row(row.number)
        size = self._parts.config.samples_per_prompt
        open_ = partial(self._open, row, played, size)
        with self._parts.waits.on(f"group {row.number}", "its episodes", open_):
            await together(self._episode(row, played, problem, index) for index in range(size))
        rollouts = tuple(played.rollouts[index] for index in range(size))
        del self._played[row.key]
        self._control.accept()
        self._buffer.ended(Group(row, problem, played.tag, rollouts))

    async def _episode(self, row: Row, played: Played, problem: Problem, index: int) -> None:
        if index not in played.rollouts:
            rollout = await self._play(row, problem, index)
            await self._parts.pending.add(Entry(*row.key, played.tag, rollout))
            played.rollouts[index] = rollout
        self._buffer.played(row)

    async def _play(self, row: Row, problem: Problem, index: int) -> Rollout:
        step, place = divmod(row.number, self._parts.config.prompts_per_step)
        return await self._parts.episodes.play(
            problem, step=step, group=place, index=index, again=row.attempt
        )

    def _open(self, row: Row, played: Played, size: int) -> list[str]:
        per_step = self._parts.config.prompts_per_step
        step, place = divmod(row.number, per_step)
        return [
            f"episode {place}/{index} of step {step}"
            for index in range(size)
            if index not in played.rollouts
        ]

    async def _look(self) -> None:
        """Follow the engine's state; overload cancels the youngest groups."""
        config = self._parts.config.asynchrony
        while config.adaptive:
            await asyncio.sleep(config.look_s)
            pressure = await self._parts.pressure()
            surplus = self._cap.look(pressure, self._control.running)
            for row in list(self._tasks)[::-1][:surplus]:
                self._tasks[row].cancel()
            self._changed.set()
