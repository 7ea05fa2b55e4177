"""The rollouts of another run, trained on again in the order in which it used them.

What a run samples depends on which rollout ended first; what it learns depends on what it used and
in which order. So a replay of the journal has the bits of the run that wrote it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from evolute.train.control.groups import Batch
from evolute.train.control.parts import Parts, learn
from evolute.train.rollouts import Journal
from evolute.train.rollouts.dynamic import gathered
from evolute.types import ConfigError, Problem, Rollout


class Replayed:
    """Steps from the journal of `run_dir`."""

    def __init__(self, parts: Parts, run_dir: Path) -> None:
        self._parts = parts
        self._path = run_dir / "rollouts.jsonl"
        if not self._path.exists():
            raise ConfigError(f"replay: there is no {self._path}; name the directory of a run.")

    async def run(self, first: int) -> None:
        """Raises ConfigError for a step that the journal does not have."""
        steps: dict[int, list[Rollout]] = {}
        for step, rollout in Journal(self._path).read():
            if step >= first:
                steps.setdefault(step, []).append(rollout)
        for step in range(first, self._parts.config.steps):
            if self._parts.should_stop():
                break
            if step not in steps:
                raise ConfigError(
                    f"replay: {self._path} has no rollouts of step {step}; set steps to "
                    f"{max(steps, default=-1) + 1} or fewer."
                )
            await learn(self._parts, await self._batch(step, steps[step]))

    async def _batch(self, step: int, rollouts: list[Rollout]) -> Batch:
        now_s, config = asyncio.get_running_loop().time(), self._parts.config
        groups: dict[int, list[Rollout]] = {}
        for rollout in rollouts:
            groups.setdefault(rollout.group, []).append(rollout)

        async def play(again: int) -> list[list[Rollout]]:
            return list(groups.values())

        chosen = config.algorithm.selection
        found = await gathered(config.prompts_per_step, play, chosen, config.failures)
        problems = [
            Problem(groups[group][0].problem_id, (), "") for group in range(max(groups) + 1)
        ]
        return Batch(step, problems, found.played, found.chosen, now_s, now_s)
