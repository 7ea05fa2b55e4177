"""The trainer group: N ranks that train one policy together. A `Crew`.

    TrainerGroup(cluster, options, config, run_dir, engines)      options(rank) are Ray's
    await group.update(rollouts), await group.publish(name, version, canary, freeze=)
    group.checkpoint_state(), .check_state(), .restore_state(state)     as a checkpoint's `Remote`
    group.weights(), group.awaited(), group.close()

After each step the ranks' weights are compared by their digests; one that differs ends the run and
is named. A rank that dies ends the step; the run resumes from its checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evolute.models import LoraWeights, ModelWeights
from evolute.train.checkpoint import TrainerState
from evolute.train.ray.calls import Actors, Calls, GroupError
from evolute.train.ray.publication import Engines, Publication
from evolute.train.ray.rank import RankFacts, RankUpdate, TrainerRank
from evolute.train.settings import TrainConfig
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import Rollout, TrainingError

logger = logging.getLogger(__name__)
T = TypeVar("T")
AT_ONCE = 4  # calls of a rank: what it keeps is told while it trains


class TrainerGroup:
    """Raises ConfigError or TrainingError when the ranks do not come up."""

    def __init__(
        self,
        cluster: Actors,
        options: Callable[[int], dict[str, Any]],
        config: TrainConfig,
        run_dir: Path,
        engines: Engines,
    ) -> None:
        self._cluster, self._config = cluster, config
        self.kept = self
        self._calls = Calls(cluster.ray, "trainer rank")
        self._ranks: list[Any] = []
        self._publication: Publication | None = None
        self.facts: list[RankFacts] = []
        try:
            self._start(options)
        except BaseException:
            self.close()
            raise
        self._publication = Publication(self, engines, config.sync, run_dir)

    # -- a crew ------------------------------------------------------------------

    def awaited(self) -> list[str]:
        return self._calls.awaited()

    async def update(self, rollouts: list[Rollout]) -> UpdateReport:
        return await self._in_thread(partial(self._update, rollouts))

    async def publish(
        self, name: str | None, version: int, canary: tuple[int, ...], *, freeze: bool
    ) -> PublishProof:
        assert self._publication is not None
        publish = self._publication.publish
        return await self._in_thread(partial(publish, name, version, canary, freeze=freeze))

    def weights(self) -> LoraWeights | ModelWeights:
        """Those that were published last."""
        assert self._publication is not None
        found = self.ask_first("kept", self._publication.version)
        assert isinstance(found, LoraWeights | ModelWeights)
        return found

    # -- a checkpoint's trainer --------------------------------------------------

    def checkpoint_state(self) -> TrainerState:
        state = self.ask("checkpoint_state")[0]
        assert isinstance(state, TrainerState)
        return state

    def check_state(self, state: TrainerState) -> None:
        wrong = self.ask("check_state", self._cluster.ray.put(state))[0]
        if wrong:
            raise ValueError(wrong)

    def restore_state(self, state: TrainerState) -> None:
        check_equal(self.ask("restore_state", self._cluster.ray.put(state)), "the checkpoint")

    # -- calls -------------------------------------------------------------------

    def ask(self, method: str, *args: Any, timeout_s: float = 0.0) -> list[Any]:
        """Of all ranks. After a failure the group is ended: its collectives are torn."""
        if not self._ranks:
            raise GroupError("the trainer group has ended; run the same command again to resume.")
        limit_s = timeout_s or self._config.ray.collective_timeout_s
        try:
            return self._calls.all(self._ranks, method, *args, timeout_s=limit_s)
        except GroupError:
            self._end()
            raise

    def ask_first(self, method: str, *args: Any, timeout_s: float = 0.0) -> Any:
        """Of rank 0."""
        limit_s = timeout_s or self._config.ray.collective_timeout_s
        return self._calls.all(self._ranks[:1], method, *args, timeout_s=limit_s)[0]

    def reference(self, method: str, *args: Any) -> Any:
        """To rank 0's answer, as Ray's object store will have it."""
        return getattr(self._ranks[0], method).remote(*args)

    def close(self) -> None:
        """End all ranks. Idempotent."""
        self._calls.stop()
        self._end()
        if self._publication is not None:
            self._publication.close()

    # -- internals ---------------------------------------------------------------

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Who is cancelled leaves nobody behind that waits."""
        try:
            return await asyncio.to_thread(call)
        except asyncio.CancelledError:
            self._calls.stop()
            raise

    def _start(self, options: Callable[[int], dict[str, Any]]) -> None:
        ray = self._config.ray
        for rank in range(ray.trainers):
            args = (rank, ray.trainers, self._config)
            chosen = {**options(rank), "max_concurrency": AT_ONCE}
            actor = self._cluster.start_actor(TrainerRank, args, ray.trainer_cpus, **chosen)
            self._ranks.append(actor)
        address = self.ask_first("address", timeout_s=ray.start_timeout_s)
        self.facts = self.ask("join", address, timeout_s=ray.start_timeout_s)
        check_equal([facts.fingerprint for facts in self.facts], "the start")

    def _update(self, rollouts: list[Rollout]) -> UpdateReport:
        ref = self._cluster.ray.put(rollouts)
        limit_s = self._config.stall_timeout_s
        found: list[RankUpdate] = self.ask("update", ref, timeout_s=limit_s)
        check_equal([one.fingerprint for one in found], "the update")
        return found[0].report

    def _end(self) -> None:
        ranks, self._ranks = self._ranks, []
        for actor in ranks:
            try:
                self._cluster.kill(actor)
            except Exception:
                logger.debug("a rank had ended already", exc_info=True)


def check_equal(digests: Sequence[str], after: str) -> None:
    """Raise TrainingError that names the ranks whose weights are not those of most; of two, both
    are told, as nobody knows which is right."""
    counts = Counter(digests)
    if len(counts) < 2:
        return
    usual, votes = counts.most_common(1)[0]
    odd = [rank for rank, digest in enumerate(digests) if digest != usual]
    if 2 * votes <= len(digests):
        odd = list(range(len(digests)))
    told = ", ".join(f"rank {rank} holds {digests[rank][:12]}" for rank in odd)
    raise TrainingError(
        f"after {after} trainer ranks hold different weights: {told}"
        + (f"; the others hold {usual[:12]}" if len(odd) < len(digests) else "")
        + ". The step does not count; run the same command again to resume from the checkpoint."
    )
