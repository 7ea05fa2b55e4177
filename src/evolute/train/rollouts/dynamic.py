"""Dynamic sampling: roll out until enough groups have contrast (DAPO, arXiv 2503.14476, 3.2).

    gathered(wanted, roll_out, config)     roll_out(again) plays one more batch of groups

Every rollout that was played is in the result; the chosen ones have groups renumbered from 0. What
is chosen follows from the order of the batches and groups, never from which ended first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from evolute.train.algorithms import SelectionConfig, choose_groups, is_useful
from evolute.train.failures import is_compared
from evolute.train.settings import FailureConfig
from evolute.types import Rollout, TrainingError

RollOut = Callable[[int], Awaitable[list[list[Rollout]]]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """`chosen` are trained on; `played` are all, in order, with the groups they were played in."""

    chosen: list[Rollout]
    played: list[Rollout]
    num_batches: int
    num_useless: int  # groups without contrast


async def gathered(
    wanted: int,
    roll_out: RollOut,
    config: SelectionConfig,
    failures: FailureConfig = FailureConfig(),  # noqa: B008
) -> Gathered:
    """Groups for one step. Raises TrainingError after `max_batches` without enough of them."""
    groups: list[list[Rollout]] = []
    num_batches = config.max_batches if config.dynamic != "off" else 1
    for again in range(num_batches):
        for members in await roll_out(again):
            groups.append([replace(r, group=len(groups)) for r in members])
        useful = [has_contrast(members, failures) for members in groups]
        chosen = choose_groups(groups, useful, wanted, config)
        if chosen is not None:
            kept = [replace(r, group=i) for i, members in enumerate(chosen) for r in members]
            played = [r for members in groups for r in members]
            return Gathered(kept, played, again + 1, useful.count(False))
    raise TrainingError(
        f"after {num_batches} batches {sum(useful)} of {len(groups)} groups have rewards that "
        f"differ; {wanted} are wanted. Choose problems nearer to what the model can do, more "
        "samples_per_prompt, or a larger algorithm.selection.max_batches."
    )


def has_contrast(members: Sequence[Rollout], failures: FailureConfig) -> bool:
    """Rewards of those that count in its statistics differ."""
    return is_useful([r.reward for r in members if is_compared(r, failures)])
