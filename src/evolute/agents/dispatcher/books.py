"""Where are all the trajectories? Counted so that each ends exactly once.

Invariant, at every moment: submitted = done + failed + cancelled + inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from evolute.agents.dispatcher.gate import Ticket
from evolute.agents.dispatcher.lifecycle import End, Ending, Stage
from evolute.agents.metrics import ENDED, RETRIES, SERVICE, TIMEOUTS, WAIT


@dataclass(slots=True)
class Books:
    """Counts of one dispatcher since it was made."""

    submitted: int = 0
    starts: int = 0
    closes: int = 0
    close_failures: int = 0
    ended: Counter[End] = field(default_factory=Counter)
    retries: Counter[Stage] = field(default_factory=Counter)
    timeouts: Counter[Stage] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # "stage/class of error"
    inside: dict[int, Ticket] = field(default_factory=dict)
    _unfinished: Counter[Hashable] = field(default_factory=Counter)

    def enter(self, ticket: Ticket) -> None:
        self.submitted += 1
        self.inside[ticket.number] = ticket
        self._unfinished[ticket.group] += 1

    def leave(self, ticket: Ticket, ending: Ending[Any]) -> None:
        """Raises KeyError for a trajectory that is not inside: it would end twice."""
        del self.inside[ticket.number]
        self._unfinished[ticket.group] -= 1
        if not self._unfinished[ticket.group]:
            del self._unfinished[ticket.group]
        self.ended[ending.end] += 1
        ENDED.labels(ending.end.value).inc()
        if ending.end is End.FAILED:
            self.failures[f"{ending.stage}/{type(ending.error).__name__}"] += 1
        for stage, times in ending.times.items():
            WAIT.labels(stage.value).observe(times.wait_s)
            SERVICE.labels(stage.value).observe(times.service_s)
        assert self.submitted == sum(self.ended.values()) + len(self.inside)

    def retried(self, stage: Stage) -> None:
        self.retries[stage] += 1
        RETRIES.labels(stage.value).inc()

    def timed_out(self, stage: Stage) -> None:
        self.timeouts[stage] += 1
        TIMEOUTS.labels(stage.value).inc()

    def unfinished(self, group: Hashable) -> int:
        """Members of a group that are inside."""
        return self._unfinished[group]
