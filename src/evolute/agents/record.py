"""What have the agents of one trajectory done? Filled while they act, read when they have ended.

record.call(request, output, agent)      a model call: tokens for training, text for reading
record.told(text, agent)                 what the agent was told
record.metrics() -> {"turns": ...}       counts, the same for the same trajectory
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from evolute.agents.metrics import MISTAKES, TOOL_CALLS
from evolute.agents.parsing import Mistake
from evolute.agents.transitions import MAIN, Transition, transition_of
from evolute.types import GenerateRequest, Output


@dataclass(slots=True)
class Record:
    """One list for all agents of the trajectory, in the order of their calls."""

    transitions: list[Transition] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def call(self, request: GenerateRequest, output: Output, agent: str) -> None:
        """Raises BackendError for an output that cannot be trained on."""
        self.transitions.append(transition_of(request, output, agent))
        self.texts.append(f"{_who(agent)}{output.text}")

    def told(self, text: str, agent: str) -> None:
        self.texts.append(f"\n{_who(agent)}[told] {text}\n")

    def used(self, tool: str) -> None:
        self.counts["tool_calls"] += 1
        self.counts[f"tool_calls/{tool}"] += 1
        TOOL_CALLS.labels(tool).inc()

    def mistook(self, mistake: Mistake) -> None:
        self.counts["mistakes"] += 1
        self.counts[f"mistakes/{mistake}"] += 1
        MISTAKES.labels(mistake.value).inc()

    def turns(self, agent: str = MAIN) -> int:
        return sum(one.agent == agent for one in self.transitions)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def metrics(self) -> dict[str, float]:
        found = {name: float(number) for name, number in sorted(self.counts.items())}
        return {
            "mistakes": 0.0,
            "tool_calls": 0.0,
            **found,
            "turns": float(self.turns()),
            "model_calls": float(len(self.transitions)),
            "agents": float(len({one.agent for one in self.transitions})),
            "action_tokens": float(sum(len(one.action_ids) for one in self.transitions)),
        }


# -- internals ---------------------------------------------------------------


def _who(agent: str) -> str:
    return "" if agent == MAIN else f"<{agent}> "
