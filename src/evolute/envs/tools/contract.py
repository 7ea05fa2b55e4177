"""What is a tool, and what is a world that an agent acts on through tools?

    ToolTask.world(problem) -> ToolWorld     start (INIT) ... tools ... grade (EVAL) ... close
    Tool.call(arguments, context) -> ToolResult

Three kinds of tools by what they touch: nothing (stateless), the world (its runtime is theirs), the
agent's own context (`context.agent`). What a model gets wrong is a `ToolError` whose text tells the
model what to do; it costs a turn and never the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from evolute.types import Message, Problem


@runtime_checkable
class AgentContext(Protocol):
    """What an agent-state tool may do to the agent that calls it."""

    @property
    def messages(self) -> Sequence[Message]: ...
    def replace_history(self, messages: Sequence[Message]) -> None: ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Who calls, and how long the call may take."""

    agent: AgentContext
    trajectory: str  # stable and unique: the problem, the repetition, the sub-agent
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told. `answer` ends the episode; with `replaced` the tool has rewritten
    the history itself and `text` is not appended."""

    text: str = ""
    answer: str | None = None
    replaced: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Tool(Protocol):
    """`schema` is {"type": "function", "function": {name, description, parameters}}."""

    @property
    def schema(self) -> Mapping[str, Any]: ...
    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult: ...


@dataclass(frozen=True, slots=True)
class Grade:
    """What an answer is worth. `is_right` counts for accuracy, apart from shaping."""

    reward: float
    is_right: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class ToolWorld(Protocol):
    """One episode's world. `close` is always called, and may be called before `start` has ended.

    `start` and `grade` may take long (a container, a test suite): the dispatcher bounds how many
    run at once and for how long. An exception of either is the infrastructure's fault.
    """

    async def start(self) -> None: ...
    def instruction(self) -> Sequence[Message]: ...
    def tools(self) -> Sequence[Tool]: ...
    async def grade(self, answer: str | None) -> Grade: ...
    async def close(self) -> None: ...


@runtime_checkable
class ToolTask(Protocol):
    """A family of problems whose worlds are acted on through tools."""

    @property
    def name(self) -> str: ...
    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]: ...
    def world(self, problem: Problem) -> ToolWorld: ...
