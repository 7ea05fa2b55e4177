"""How is a group of rollouts played? Seeds, limits, tries again elsewhere, and no exceptions.

    episodes = Episodes(players, config, waits, places)
    await episodes.play(problem, step=, group=, index=, again=)   one rollout, whatever happens
    await together(coroutines)          all results; the first error cancels the others

At most `places` episodes are played at once, so that others find room in the engine and not every
world lives at the same time. Players that queue by themselves get all at once (places = 0), and
episode_timeout_s counts their queue too.

The seed of an episode follows from (run, step, again, try) alone. A try that failed for a reason of
the infrastructure is made again with another seed, by the next player when there are several. Only
RequestError (settings that cannot work) and cancellation come out as exceptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from evolute.train.control.watchdog import Waits, cancel
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError, Outcome, Player, Problem, RequestError, Rollout

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Episodes:
    """Plays episodes by `players`, which are interchangeable: replicas of one policy."""

    def __init__(
        self, players: Sequence[Player], config: TrainConfig, waits: Waits, places: int = 0
    ) -> None:
        if not players:
            raise ConfigError("a run needs a player; give it at least one.")
        self._players, self._config, self._waits = players, config, waits
        self._gate: contextlib.AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(places) if places else contextlib.nullcontext()
        )
        self.num_retries = self.num_waiting = 0

    async def play(
        self, problem: Problem, *, step: int, group: int, index: int, again: int = 0
    ) -> Rollout:
        """One rollout. `again` tells apart what is played more than once for a step's place."""
        first = self._config.seed * 1_000_003 + step + 15_485_863 * again
        who = f"episode {group}/{index} of step {step}"
        async with contextlib.AsyncExitStack() as held:
            self.num_waiting += 1
            try:
                with self._waits.on(who, "a place"):
                    await held.enter_async_context(self._gate)
            finally:
                self.num_waiting -= 1
            with self._waits.on(who, "its player"):
                rollout = await self._tries(problem, group, index, first)
        self._waits.moved()
        return rollout

    async def _tries(self, problem: Problem, group: int, index: int, seed: int) -> Rollout:
        rollout = await self._try(0, problem, group, index, seed)
        for attempt in range(1, self._config.train_retries + 1):
            if rollout.outcome is not Outcome.FAILED:
                break
            logger.warning("episode %s/%d failed: %s", problem.id, index, rollout.failure)
            self.num_retries += 1
            self._waits.moved()
            rollout = await self._try(attempt, problem, group, index, seed + 7919 * attempt)
        return rollout

    async def _try(
        self, attempt: int, problem: Problem, group: int, index: int, seed: int
    ) -> Rollout:
        size = self._config.samples_per_prompt
        player = self._players[(group * size + index + attempt) % len(self._players)]
        limit_s = self._config.episode_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await player.play(problem, group=group, index=index, seed=seed)
        except RequestError:
            raise
        except TimeoutError as error:
            name = "EpisodeTimeout" if limit.expired() else type(error).__name__
            text = f"no end within {limit_s:g} s" if limit.expired() else str(error)
            return failed(problem, group, index, name, text)
        except Exception as error:  # a player that breaks its promise costs its rollout, no more
            logger.debug("a player raised", exc_info=True)
            return failed(problem, group, index, type(error).__name__, str(error))


def failed(problem: Problem, group: int, index: int, failure: str, text: str) -> Rollout:
    """A rollout of which there is nothing but the failure."""
    return Rollout(
        problem.id, group, index, 0.0, Outcome.FAILED, (), failure=failure, metadata={"error": text}
    )


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. An error, or being cancelled, cancels those that still run."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await cancel(tasks)
