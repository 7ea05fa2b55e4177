"""Which finished groups does an asynchronous step use?

    gathering = Gathering(parts, control, buffer, generation)
    await gathering.batch(step) -> Batch

Groups come in the order of their ends. One that is too stale is trained on, dropped or sent back
(`staleness.judge`); one without contrast is left out when dynamic sampling says so. What is left is
trained in the order of rows.
"""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, field, replace

from evolute.train.control.buffer import Buffer
from evolute.train.control.generation import Generation
from evolute.train.control.groups import Batch, Group, Key
from evolute.train.control.parts import Parts
from evolute.train.control.staleness import StalenessControl, judge
from evolute.train.rollouts.dynamic import gathered, has_contrast
from evolute.types import Rollout, TrainingError


@dataclass(slots=True)
class _Taken:
    """What came from the buffer for one step."""

    useful: list[Group] = field(default_factory=list)
    useless: list[Group] = field(default_factory=list)
    dropped: list[Key] = field(default_factory=list)
    requeued: list[Key] = field(default_factory=list)


class Gathering:
    """Takes from the buffer what steps need, and tells the accounts."""

    def __init__(
        self, parts: Parts, control: StalenessControl, buffer: Buffer, generation: Generation
    ) -> None:
        self._parts, self._config = parts, parts.config
        self._control, self._buffer, self._generation = control, buffer, generation

    async def batch(self, step: int) -> Batch:
        """prompts_per_step groups. Raises TrainingError after too many without contrast."""
        clock, wanted = asyncio.get_running_loop().time, self._config.prompts_per_step
        begun_s, buffered, taken = clock(), len(self._buffer), _Taken()
        with self._parts.tracer.span("train/rollout", step=step):
            while len(taken.useful) < wanted:
                what = f"a group for step {step} (has {len(taken.useful)} of {wanted})"
                with self._parts.waits.on("trainer", what, self._awaited):
                    group = await self._buffer.take()
                self._sort(group, step, taken)
        metrics = self._metrics(step, taken) | {"num_buffered_groups": float(buffered)}
        groups = sorted([*taken.useful, *taken.useless], key=lambda group: group.row.key)

        async def played(again: int) -> list[list[Rollout]]:
            return [list(group.rollouts) for group in groups]

        chosen = self._config.algorithm.selection
        found = await gathered(wanted, played, chosen, self._config.failures)
        return Batch(
            step,
            [group.problem for group in groups],
            found.played,
            found.chosen,
            begun_s,
            clock(),
            used=[group.row.key for group in sorted(taken.useful, key=lambda g: g.row.key)],
            dropped=[*taken.dropped, *(group.row.key for group in taken.useless)],
            requeued=taken.requeued,
            metrics=metrics,
        )

    # -- internals ---------------------------------------------------------------

    def _sort(self, group: Group, step: int, taken: _Taken) -> None:
        verdict = self._judge(group, step)
        if verdict == "train" and self._is_wanted(group):
            taken.useful.append(group)
            return
        self._control.filter()
        if verdict == "train":
            taken.useless.append(group)
            self._check_patience(taken)
        elif verdict == "drop":
            taken.dropped.append(group.row.key)
        else:
            taken.requeued.append(group.row.key)
            row = replace(group.row, attempt=group.row.attempt + 1)
            self._generation.rows.give_back(row)
        self._generation.wake()

    def _judge(self, group: Group, step: int) -> str:
        chosen = self._config.asynchrony
        return judge(
            step - group.oldest,
            group.row.attempt,
            max_staleness=chosen.max_staleness,
            stale=chosen.stale,
            max_requeues=chosen.max_requeues,
        )

    def _is_wanted(self, group: Group) -> bool:
        is_off = self._config.algorithm.selection.dynamic == "off"
        return is_off or has_contrast(group.rollouts, self._config.failures)

    def _check_patience(self, taken: _Taken) -> None:
        wanted, useful = self._config.prompts_per_step, len(taken.useful)
        count = useful + len(taken.useless)
        if count >= self._config.algorithm.selection.max_batches * wanted and useful < wanted:
            raise TrainingError(
                f"{useful} of {count} groups have rewards that differ; {wanted} are wanted. Choose "
                "problems nearer to what the model can do, more samples_per_prompt, or a larger "
                "algorithm.selection.max_batches."
            )

    def _awaited(self) -> list[str]:
        return [f"group {row.number}" for row in self._buffer.in_flight] or ["admission"]

    def _metrics(self, step: int, taken: _Taken) -> dict[str, float]:
        ages = [max(0, step - group.oldest) for group in taken.useful]
        limit, control = self._config.asynchrony.max_staleness, self._control
        return {
            "staleness_mean": statistics.fmean(ages),
            "staleness_max": max(ages),
            "num_stale_groups": sum(age > limit for age in ages),
            "num_dropped_groups": len(taken.dropped),
            "num_requeued_groups": len(taken.requeued),
            "num_useless_groups": len(taken.useless),
            "num_running_groups": control.running,
            "submitted": control.submitted,
            "accepted": control.accepted,
            "filtered": control.filtered,
            "num_cancelled_episodes": self._buffer.num_cancelled,
        }
