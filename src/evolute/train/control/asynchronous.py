"""The fully asynchronous schedule: groups are played all the while, the trainer takes what is done.

    admission (slot -> row -> tag) --episodes--> journal --> buffer --> judge --> update --> weights
        ^  StalenessControl, InFlightCap                       |                    |
        +-------- capacity: a group ended, was dropped, a step was trained <--------+

A step takes prompts_per_step groups in the order in which they ended and trains on them in the
order of their rows. So with max_staleness = 0 a step has exactly the groups of the synchronous
schedule, in its order, by the same weights: equal bits. Rollouts go on while the weights change
under them; each token keeps the version that sampled it.
"""

from __future__ import annotations

import asyncio
import sys

from evolute.train.control.buffer import Buffer
from evolute.train.control.cap import InFlightCap
from evolute.train.control.gathering import Gathering
from evolute.train.control.generation import Generation
from evolute.train.control.groups import Group
from evolute.train.control.parts import Parts, learn
from evolute.train.control.rows import Restored
from evolute.train.control.staleness import StalenessControl
from evolute.train.control.watchdog import cancel
from evolute.types import TrainingError


class Asynchronous:
    """One run from a restored state on."""

    def __init__(self, parts: Parts, state: Restored) -> None:
        config = parts.config
        self._parts, self._state = parts, state
        size, chosen, high = config.prompts_per_step, config.asynchrony, config.max_groups
        burst = (chosen.burst or high) if chosen.adaptive else sys.maxsize
        self.control = StalenessControl(size, chosen.max_staleness, high)
        self.cap = InFlightCap(min(chosen.min_groups, high), high, burst)
        self.buffer = Buffer(size * (chosen.max_staleness + 1) + len(state.finished))
        self._generation = Generation(parts, self.control, self.cap, self.buffer, state)
        self._gathering = Gathering(parts, self.control, self.buffer, self._generation)

    async def run(self, first: int) -> None:
        """Steps `first` and on. What is in flight at the end is cancelled; finished rollouts stay
        in the journal."""
        self._restore(first)
        trainer = asyncio.create_task(self._train(first), name="trainer")
        generation = asyncio.create_task(self._generation.run(), name="generation")
        try:
            await asyncio.wait({trainer, generation}, return_when=asyncio.FIRST_COMPLETED)
            if not trainer.done():
                generation.result()  # it ends by an error only
                raise TrainingError("the generation of rollouts ended before the run did.")
            trainer.result()
        finally:
            await cancel([trainer, generation])
            await self._generation.close()
        self.buffer.check(empty=True)

    # -- internals ---------------------------------------------------------------

    def _restore(self, first: int) -> None:
        control, state = self.control, self._state
        control.step = first + 1
        control.accepted = state.num_used + len(state.finished)
        control.filtered = state.num_dropped
        control.submitted = control.accepted + control.filtered
        self._generation.version = first
        for row in state.finished:
            played = state.played.pop(row.key)
            rollouts = tuple(played.rollouts[i] for i in sorted(played.rollouts))
            self.buffer.add(Group(row, self._parts.source.row(row.number), played.tag, rollouts))

    async def _train(self, first: int) -> None:
        for step in range(first, self._parts.config.steps):
            if self._parts.should_stop():
                break
            await learn(self._parts, await self._gathering.batch(step))
            self._generation.version = step + 1
            self.control.advance()
            self._generation.wake()
            self.buffer.check()
