"""What is a schedule made of? The seams between who plays, who learns, who publishes, who records.

    Source, Learner, Weights, Records     protocols; the real ones are in `run.py` and `records.py`
    Parts                                 all of them, handed to a schedule
    learn(parts, batch)                   journal -> update -> publication -> records -> checkpoint

A schedule knows no torch and no engine: `train/simulation` hands it parts on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from evolute.telemetry import Tracer
from evolute.train.control.cap import Pressure
from evolute.train.control.episodes import Episodes
from evolute.train.control.groups import Batch
from evolute.train.control.pending import Pending
from evolute.train.control.watchdog import Waits
from evolute.train.settings import TrainConfig
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import Problem, Rollout


@runtime_checkable
class Source(Protocol):
    """The stream of problems."""

    def batch(self, step: int, again: int = 0) -> list[Problem]: ...
    def row(self, number: int) -> Problem: ...


@runtime_checkable
class Learner(Protocol):
    """One update on the rollouts of a step."""

    async def update(self, rollouts: list[Rollout]) -> UpdateReport: ...


@runtime_checkable
class Weights(Protocol):
    """The way of new weights into what samples, with proof."""

    async def publish(self, version: int) -> PublishProof: ...


@runtime_checkable
class Records(Protocol):
    """What is written down. A step counts once `finish` has returned."""

    def journal(self, batch: Batch) -> None: ...
    def finish(
        self, batch: Batch, update: UpdateReport, proof: PublishProof, publish_s: float
    ) -> None: ...


@dataclass(slots=True)
class Parts:
    """All that a schedule needs."""

    config: TrainConfig
    source: Source
    episodes: Episodes
    learner: Learner
    weights: Weights
    records: Records
    pending: Pending
    waits: Waits
    pressure: Callable[[], Awaitable[Pressure]]
    should_stop: Callable[[], bool] = lambda: False
    tracer: Tracer = field(default_factory=lambda: Tracer(None))


async def learn(
    parts: Parts, batch: Batch, barrier: Callable[[], Awaitable[object]] | None = None
) -> None:
    """One step on a batch. `barrier` is awaited between the update and the publication."""
    loop, trace, waits = asyncio.get_running_loop(), parts.tracer, parts.waits
    parts.records.journal(batch)
    with trace.span("train/update", step=batch.step), waits.on("trainer", "its update"):
        update = await parts.learner.update(batch.chosen)
    waits.moved()
    if barrier is not None:
        await barrier()
    begun_s = loop.time()
    with trace.span("train/publish", step=batch.step), waits.on("trainer", "the publication"):
        proof = await parts.weights.publish(batch.step + 1)
    waits.moved()
    parts.records.finish(batch, update, proof, loop.time() - begun_s)
