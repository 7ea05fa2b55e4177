"""The settings of an agent, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evolute.types import ConfigError, SamplingParams


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent acts: its turns and tokens, the form of its calls, what it is told."""

    max_turns: int = 16  # model calls of one agent
    max_new_tokens: int = 512  # of one turn
    max_context: int = 0  # tokens of prompt and answer together; 0: as many as the model holds
    temperature: float = 1.0
    top_p: float = 1.0
    form: Literal["auto", "hermes", "json", "function"] = "auto"  # of calls; auto: the template's
    stop_at_call: bool = True  # a turn ends with its first call (forms with an end tag)
    answer_without_call: bool = False  # a turn without a call is the answer, not a mistake
    thinking: Literal["keep", "drop"] = "keep"  # drop: earlier thoughts leave the history
    hints: bool = True  # a mistake is answered by what was wrong and the right form
    remind_below: int = 0  # say how many turns are left once so many or fewer are; 0: never
    stuck_after: int = 4  # end after so many equal calls with equal results in a row; 0: never
    result_chars: int = 8000  # of a tool's result; the middle of a longer one is left out; 0: all
    tool_timeout_s: float = 30.0
    merge_samples: bool = True  # calls that continue one another are one training sample
    keep_samples: bool = True  # off: no training samples; serves backends without log-probabilities
    clear_history: bool = False  # offer a tool by which the agent clears its own history
    delegate: bool = False  # offer a tool that runs a sub-agent
    max_depth: int = 1  # of sub-agents below the main one
    sub_turns: int = 8  # model calls of a sub-agent
    sub_timeout_s: float = 600.0  # of a whole sub-agent

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_new_tokens", "max_depth", "sub_turns"):
            if getattr(self, name) < 1:
                raise ConfigError(f"agent.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("max_context", "remind_below", "result_chars"):
            if getattr(self, name) < 0:
                raise ConfigError(f"agent.{name} is {getattr(self, name)}; it cannot be negative.")
        for name in ("tool_timeout_s", "sub_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"agent.{name} is {getattr(self, name)}; it must be above 0.")
        if self.stuck_after < 0 or self.stuck_after == 1:
            raise ConfigError(
                f"agent.stuck_after is {self.stuck_after}; repetition needs at least 2, and 0 "
                "switches the check off."
            )
        if not self.keep_samples and not self.merge_samples:
            raise ConfigError(
                "agent.merge_samples does nothing with agent.keep_samples = false; drop one."
            )
        self.sampling()

    def sampling(self, max_new_tokens: int | None = None) -> SamplingParams:
        """Of one turn. Raises RequestError for values that cannot be."""
        size = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        return SamplingParams(max_new_tokens=size, temperature=self.temperature, top_p=self.top_p)
