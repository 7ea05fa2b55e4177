"""What went wrong with a rollout, whose doing was it, and what is it still used for?

    class_of(rollout)            "truncated", "engine", "environment", "grader", "timeout", "other";
                                 "" when it ended well
    use_of(rollout, config)      gradient, statistics, reward or nothing
    is_valued, is_compared, is_trained      the three questions: reward valid? in its group's
                                            statistics? in the gradient?
    Bias                         do failures hit hard or long problems more than others?

A failed rollout is no zero: a zero says that the model was wrong. But to leave failures out biases
what is learned when they are not spread evenly, hence the report (NeMo-RL #3470 and tinker-cookbook
#497 are two ways to be bitten).
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from evolute.train.settings import FailureConfig, Use
from evolute.types import Outcome, Rollout

USES: tuple[Use, ...] = (
    "nothing",
    "reward",
    "statistics",
    "gradient",
)  # each includes those before
CLASSES = {  # names of errors, as rollouts carry them
    "engine": ("BackendError", "OutOfCapacity", "DeadlineMissed", "ExecutorLost", "BudgetSpent"),
    "grader": ("RewardError",),
    "timeout": ("TimeoutError", "EpisodeTimeout", "StageTimeout"),
    "environment": (
        *("EpisodeError", "SandboxError", "ToolError", "EnvError", "OSError", "ConnectionError"),
        *("ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "WorkerLost"),
    ),
}
CLASS_OF = {name: cause for cause, names in CLASSES.items() for name in names}


def class_of(rollout: Rollout) -> str:
    """By the name of the error; what is not known is "other"."""
    if rollout.outcome is Outcome.TRUNCATED:
        return "truncated"
    if rollout.outcome is not Outcome.FAILED:
        return ""
    return CLASS_OF.get(rollout.failure or "", "other")


def use_of(rollout: Rollout, config: FailureConfig) -> Use:
    """How far it is used. Without a sample there is nothing to train on."""
    cause = class_of(rollout)
    use: Use = getattr(config, cause) if cause else "gradient"
    return "statistics" if use == "gradient" and not rollout.samples else use


def is_valued(rollout: Rollout, config: FailureConfig) -> bool:
    """Its reward says something about the model."""
    return use_of(rollout, config) != "nothing"


def is_compared(rollout: Rollout, config: FailureConfig) -> bool:
    """It counts in its group's mean and spread."""
    return USES.index(use_of(rollout, config)) >= USES.index("statistics")


def is_trained(rollout: Rollout, config: FailureConfig) -> bool:
    """Its tokens get a gradient."""
    return use_of(rollout, config) == "gradient"


@dataclass(slots=True)
class Bias:
    """Failures of a whole run by how hard and how long their problems are, as their siblings that
    ended tell it."""

    _groups: list[tuple[float, float, int, int]] = field(default_factory=list)

    def add(self, rollouts: Sequence[Rollout]) -> None:
        """The rollouts of a step; siblings share `group`."""
        by_group: dict[int, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            by_group[rollout.group].append(rollout)
        for members in by_group.values():
            ended = [r for r in members if r.outcome.is_reward_valid]
            if ended:
                reward = statistics.fmean(r.reward for r in ended)
                length = statistics.fmean(_length(r) for r in ended)
                self._groups.append((reward, length, len(members), len(members) - len(ended)))

    def report(self) -> dict[str, float]:
        """Shares of failed rollouts in the halves of the groups by reward and by length; nothing
        while none has failed."""
        if not any(failed for *_, failed in self._groups):
            return {}
        hard, easy = self._halves(0)
        short, long = self._halves(1)
        return {
            "failed_frac_hard": hard,
            "failed_frac_easy": easy,
            "failed_frac_short": short,
            "failed_frac_long": long,
        }

    def _halves(self, key: int) -> tuple[float, float]:
        """Below the median, and at or above it; groups that are equal are never parted."""
        middle = statistics.median(group[key] for group in self._groups)
        low = [group for group in self._groups if group[key] < middle]
        high = [group for group in self._groups if group[key] >= middle]
        return _share(low), _share(high)


def count_classes(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """Rollouts that did not end well, by class."""
    return dict(Counter(cause for r in rollouts if (cause := class_of(r))))


# -- internals ---------------------------------------------------------------


def _length(rollout: Rollout) -> int:
    return sum(len(sample.response_ids) for sample in rollout.samples)


def _share(groups: Sequence[tuple[float, float, int, int]]) -> float:
    return sum(g[3] for g in groups) / max(sum(g[2] for g in groups), 1)
