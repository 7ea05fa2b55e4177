"""The two sides of a run without models: what takes time takes virtual time, nothing is computed.

SimulatedPlayer, SimulatedLearner, SimulatedWeights, SimulatedRecords, NumberedProblems
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from evolute.train.control.groups import Batch
from evolute.train.simulation.engine import SimulatedEngine
from evolute.train.simulation.lengths import Lengths
from evolute.train.simulation.settings import TrainerModel
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import Outcome, Problem, Rollout, TrainingSample, VersionSegment


@dataclass(frozen=True, slots=True)
class NumberedProblems:
    """Problem r is called r."""

    per_step: int

    def batch(self, step: int, again: int = 0) -> list[Problem]:
        first = step * self.per_step
        return [self.row(first + place) for place in range(self.per_step)]

    def row(self, number: int) -> Problem:
        return Problem(str(number), (), "")


@dataclass(frozen=True, slots=True)
class SimulatedPlayer:
    """Samples and waits as long as the distributions say."""

    engine: SimulatedEngine
    lengths: Lengths

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        segments: list[VersionSegment] = []
        for turn in self.lengths.episode(problem.id, index, seed):
            segments += await self.engine.generate(turn.tokens)
            if turn.tool_s:
                await asyncio.sleep(turn.tool_s)
        sample = TrainingSample((), (), (), (), tuple(segments))
        return Rollout(problem.id, group, index, 0.0, Outcome.DONE, (sample,))


@dataclass(slots=True)
class SimulatedLearner:
    """Takes as long as its tokens do."""

    model: TrainerModel
    tokens_s: float
    busy_s: float = 0.0

    async def update(self, rollouts: list[Rollout]) -> UpdateReport:
        tokens = sum(segment.num_tokens for segment in segments_of(rollouts))
        seconds = self.model.fixed_s + tokens / self.tokens_s
        await asyncio.sleep(seconds)
        self.busy_s += seconds
        return UpdateReport(tokens, {"update_s": seconds})


@dataclass(frozen=True, slots=True)
class SimulatedWeights:
    """The engine stands still meanwhile."""

    engine: SimulatedEngine
    publish_s: float

    async def publish(self, version: int) -> PublishProof:
        self.engine.pause()
        await asyncio.sleep(self.publish_s)
        self.engine.resume(version)
        return PublishProof(version, "", 0.0)


@dataclass(slots=True)
class SimulatedRecords:
    """Keeps in memory what a run writes down. `ages` counts trained tokens by updates between their
    weights and those they were trained with."""

    batches: list[Batch] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    ages: Counter[int] = field(default_factory=Counter)

    def journal(self, batch: Batch) -> None:
        for segment in segments_of(batch.chosen):
            self.ages[batch.step - segment.version] += segment.num_tokens

    def finish(
        self, batch: Batch, update: UpdateReport, proof: PublishProof, publish_s: float
    ) -> None:
        self.batches.append(batch)
        self.ends_s.append(asyncio.get_running_loop().time())


def segments_of(rollouts: list[Rollout]) -> list[VersionSegment]:
    """Of all samples."""
    return [v for r in rollouts for sample in r.samples for v in sample.weight_versions]
