"""Schedules in rounds: a step's rollouts are played as a whole.

    Synchronous     rollouts by the current weights -> update -> publication -> the next step
    OneStepOff      while step k is trained, k + 1 is played with the weights that k was played
                    with, or the next ones; both end before new weights come

In both, every rollout of a step is sampled by one version, so that a resumed run is equal to the
bit. Finished rollouts are in the journal of what waits for the trainer, and are not played again.
"""

from __future__ import annotations

import asyncio
from functools import partial

from evolute.train.control.episodes import together
from evolute.train.control.groups import Batch, Key
from evolute.train.control.parts import Parts, learn
from evolute.train.control.pending import Entry
from evolute.train.control.rows import Played
from evolute.train.control.watchdog import cancel
from evolute.train.rollouts.dynamic import gathered
from evolute.types import Problem, Rollout


class Synchronous:
    """Steps one after the other. `played` are rollouts that a killed run had finished."""

    def __init__(self, parts: Parts, played: dict[Key, Played]) -> None:
        self._parts, self._played = parts, played

    async def run(self, first: int) -> None:
        for step in range(first, self._parts.config.steps):
            if self._parts.should_stop():
                break
            await learn(self._parts, await roll_out(self._parts, step, step, self._played))


class OneStepOff:
    """Rollouts of the next step beside the update of this one."""

    def __init__(self, parts: Parts, played: dict[Key, Played]) -> None:
        self._parts, self._played = parts, played

    async def run(self, first: int) -> None:
        last = self._parts.config.steps - 1
        coming = self._start(first, first)
        try:
            for step in range(first, last + 1):
                if self._parts.should_stop():
                    break
                batch = await coming
                if step < last:
                    coming = self._start(step + 1, step)
                await learn(self._parts, batch, partial(self._barrier, coming))
        finally:
            await cancel([coming])

    def _start(self, step: int, version: int) -> asyncio.Task[Batch]:
        work = roll_out(self._parts, step, version, self._played)
        return asyncio.create_task(work, name=f"rollouts of step {step}")

    async def _barrier(self, coming: asyncio.Task[Batch]) -> None:
        with self._parts.waits.on("trainer", coming.get_name(), lambda: [coming.get_name()]):
            await asyncio.wait({coming})
        if coming.exception() is not None:
            coming.result()


async def roll_out(parts: Parts, step: int, version: int, played: dict[Key, Played]) -> Batch:
    """A step's rollouts by weights `version`, with further batches of problems where dynamic
    sampling wants them."""
    config, clock = parts.config, asyncio.get_running_loop().time
    problems: list[Problem] = []
    begun_s = clock()

    async def play(again: int) -> list[list[Rollout]]:
        more = parts.source.batch(step, again)
        first = len(problems)
        problems.extend(more)
        jobs = [
            _group(parts, step, version, problem, group, played)
            for group, problem in enumerate(more, first)
        ]
        return await together(jobs)

    who = f"rollouts of step {step}"
    with parts.tracer.span("train/rollout", step=step), parts.waits.on(who, "their episodes"):
        chosen = config.algorithm.selection
        found = await gathered(config.prompts_per_step, play, chosen, config.failures)
    metrics: dict[str, float] = {}
    if config.algorithm.selection.dynamic != "off":
        counts = {"num_batches": found.num_batches, "num_useless_groups": found.num_useless}
        metrics = {name: float(count) for name, count in counts.items()}
    used = [_key(parts, step, group) for group in range(len(problems))]
    return Batch(
        step, problems, found.played, found.chosen, begun_s, clock(), used=used, metrics=metrics
    )


# -- internals ---------------------------------------------------------------


def _key(parts: Parts, step: int, group: int) -> Key:
    """Of the step's group number `group`: further batches are further attempts at its places."""
    again, place = divmod(group, parts.config.prompts_per_step)
    return step * parts.config.prompts_per_step + place, again


async def _group(
    parts: Parts,
    step: int,
    version: int,
    problem: Problem,
    group: int,
    played: dict[Key, Played],
) -> list[Rollout]:
    key = _key(parts, step, group)
    had = played.pop(key, Played(version))

    async def member(index: int) -> Rollout:
        if index not in had.rollouts:
            rollout = await parts.episodes.play(
                problem, step=step, group=group, index=index, again=key[1]
            )
            await parts.pending.add(Entry(*key, had.tag, rollout))
            had.rollouts[index] = rollout
        return had.rollouts[index]

    return await together(member(index) for index in range(parts.config.samples_per_prompt))
