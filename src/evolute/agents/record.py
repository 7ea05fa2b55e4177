"""What have the agents of one trajectory done? Filled while they act, read when they have ended.

record.call(request, output, agent)      a model call: tokens for training, text for reading
record.told(text, agent)                 what the agent was told
record.metrics() -> {"turns": ...}       counts, the same for the same trajectory
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean

from evolute.agents.metrics import MISTAKES, TOOL_CALLS
from evolute.agents.parsing import Mistake
from evolute.agents.transitions import MAIN, Transition, transition_of
from evolute.types import GenerateRequest, Output


@dataclass(slots=True)
class Record:
    """One list for all agents of the trajectory, in the order of their calls. Without
    `keeps_tokens` there are no transitions, and outputs need no log-probabilities."""

    keeps_tokens: bool = True
    calls: list[tuple[str, int]] = field(default_factory=list)  # agent, tokens it wrote
    transitions: list[Transition] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    told_metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def call(self, request: GenerateRequest, output: Output, agent: str) -> None:
        """Raises BackendError for an output that cannot be trained on."""
        if self.keeps_tokens:
            self.transitions.append(transition_of(request, output, agent))
        self.calls.append((agent, len(output.token_ids)))
        self.texts.append(f"{_who(agent)}{output.text}")

    def told(self, text: str, agent: str) -> None:
        self.texts.append(f"\n{_who(agent)}[told] {text}\n")

    def used(self, tool: str) -> None:
        self.counts["tool_calls"] += 1
        self.counts[f"tool_calls/{tool}"] += 1
        TOOL_CALLS.labels(tool).inc()

    def measured(self, name: str, value: float) -> None:
        """What a tool says of one call; the metrics have the mean over its calls."""
        self.told_metrics[name].append(value)

    def mistook(self, mistake: Mistake) -> None:
        self.counts["mistakes"] += 1
        self.counts[f"mistakes/{mistake}"] += 1
        MISTAKES.labels(mistake.value).inc()

    @property
    def agents(self) -> list[str]:
        """In the order of their first calls."""
        return list(dict.fromkeys(agent for agent, _ in self.calls))

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def metrics(self) -> dict[str, float]:
        found = {name: fmean(values) for name, values in sorted(self.told_metrics.items())}
        found |= dict(sorted(self.counts.items()))
        return {
            "mistakes": 0.0,
            "tool_calls": 0.0,
            **found,
            "turns": float(sum(agent == MAIN for agent, _ in self.calls)),
            "model_calls": float(len(self.calls)),
            "agents": float(len(self.agents)),
            "action_tokens": float(sum(tokens for _, tokens in self.calls)),
        }


# -- internals ---------------------------------------------------------------


def _who(agent: str) -> str:
    return "" if agent == MAIN else f"<{agent}> "
