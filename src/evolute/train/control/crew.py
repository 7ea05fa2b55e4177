"""Who trains, keeps the state and brings new weights to the engines, wherever it lives.

    Crew      protocol: update, publish, weights, kept, awaited

One process is a crew of one (`run.py`); the trainer ranks on Ray are another (`train/ray`).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from evolute.models import LoraWeights, ModelWeights
from evolute.train.checkpoint import Remote, Resumable
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import Rollout


@runtime_checkable
class Crew(Protocol):
    """One policy in training."""

    @property
    def kept(self) -> Resumable | Remote:
        """What a checkpoint holds."""
        ...

    def awaited(self) -> list[str]:
        """Who is waited for now, for the watch-dog."""
        ...

    async def update(self, rollouts: list[Rollout]) -> UpdateReport:
        """One step. Raises TrainingError when it was not applied."""
        ...

    async def publish(
        self, name: str | None, version: int, canary: tuple[int, ...], *, freeze: bool
    ) -> PublishProof:
        """The weights into every engine, proved at each: the adapter `name`, or without a name the
        base. With `freeze` requests stand still until the digests are proved."""
        ...

    def weights(self) -> LoraWeights | ModelWeights:
        """A copy of what is trained."""
        ...
