"""May another group of rollouts begin, and is this one too stale to train on?

    control = StalenessControl(batch, max_staleness, max_concurrent)
    control.capacity                    groups that may begin now (AReaL, arXiv 2505.24298, 5.1)
    control.submit(); .accept(); .cancel(); .filter(); .advance()
    judge(staleness, requeues, config)  "train", "drop" or "requeue" for one group

The admission bounds the aggregate: with step g (from 1) being trained, no more than (S + g) B
groups have ever been accepted or run, so that the trainer, which uses B a step, is at most S steps
behind what is sampled. A single slow group may still be staler; `judge` decides about it.

Always: submitted = accepted + filtered + running, and none is negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evolute.types import TrainingError

Verdict = Literal["train", "drop", "requeue"]


@dataclass(slots=True)
class StalenessControl:
    """Counts of groups. `batch` is B, `max_staleness` S; `step` is g, the one being trained."""

    batch: int
    max_staleness: int
    max_concurrent: int
    step: int = 1
    accepted: int = 0  # finished and kept, whether trained yet or not
    running: int = 0
    submitted: int = 0
    filtered: int = 0  # cancelled while running, or dropped after they were accepted

    @property
    def capacity(self) -> int:
        """Groups that may begin now; negative when counts were restored from beyond the bound."""
        admitted = self.accepted + self.running
        bound = (self.max_staleness + self.step) * self.batch - admitted
        return min(self.max_concurrent - self.running, bound)

    def submit(self) -> None:
        """One more runs. Raises TrainingError when there is no capacity."""
        if self.capacity <= 0:
            raise TrainingError(
                f"a group was begun without capacity (step {self.step}, {self.accepted} accepted, "
                f"{self.running} running)."
            )
        self.submitted += 1
        self.running += 1
        self.check()

    def accept(self) -> None:
        """One that ran is finished."""
        self.running -= 1
        self.accepted += 1
        self.check()

    def cancel(self) -> None:
        """One that ran is given up."""
        self.running -= 1
        self.filtered += 1
        self.check()

    def filter(self) -> None:
        """One that was accepted is dropped before training: its place is free again."""
        self.accepted -= 1
        self.filtered += 1
        self.check()

    def advance(self) -> None:
        """A step was trained and its weights are in the engine."""
        self.step += 1

    def check(self) -> None:
        """Raise TrainingError unless the accounts agree."""
        counts = (self.accepted, self.running, self.filtered)
        if self.submitted != sum(counts) or min(counts) < 0:
            raise TrainingError(
                f"groups do not add up: {self.submitted} submitted, but {self.accepted} accepted, "
                f"{self.filtered} filtered and {self.running} running."
            )


def judge(
    staleness: int, requeues: int, *, max_staleness: int, stale: Verdict, max_requeues: int
) -> Verdict:
    """What to do with a finished group. `staleness` is the trainer's version less that of the
    oldest token; a problem that came back `max_requeues` times is trained on all the same."""
    if staleness <= max_staleness:
        return "train"
    if stale == "requeue" and requeues >= max_requeues:
        return "train"
    return stale
