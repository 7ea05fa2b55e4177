"""Tools by which an agent acts on itself: they touch its context and no world.

ClearHistory()      forget all but the instruction and some notes
Delegate(config)    a sub-agent does a part; its calls are recorded under its own name
own_tools(config)   those that the settings ask for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

from evolute.agents.settings import AgentConfig
from evolute.agents.setup import AgentEnd, Stop
from evolute.envs.tools import AgentContext, Tool, ToolContext, ToolResult
from evolute.types import Message

NOTES = "\n\n[notes you kept when you cleared your history]\n"


@runtime_checkable
class Delegating(Protocol):
    """An agent that can run others."""

    @property
    def depth(self) -> int: ...
    @property
    def offered(self) -> Sequence[Tool]: ...
    async def delegate(self, task: str, tools: Sequence[Tool]) -> AgentEnd: ...


def own_tools(config: AgentConfig) -> list[Tool]:
    found: list[Tool] = [ClearHistory()] if config.clear_history else []
    return [*found, Delegate(config)] if config.delegate else found


class ClearHistory:
    """The next prompt is the first one again, with the notes at its end."""

    def __init__(self) -> None:
        self.schema = _schema(
            "clear_history",
            "Forget the conversation so far, except the task and your notes. Use it when the "
            "conversation grows long; write into the notes all that you need later.",
            "notes",
            "what to remember",
        )

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        context.agent.replace_history(_with_notes(context.agent, arguments["notes"]))
        return ToolResult(replaced=True)


class Delegate:
    """Runs a sub-agent on a task of its own; its answer is the result."""

    def __init__(self, config: AgentConfig) -> None:
        self.timeout_s, self._max_depth = config.sub_timeout_s, config.max_depth
        self.schema = _schema(
            "delegate",
            "Let another agent with the same tools do a part of the work. It knows nothing but "
            "the task you write, and answers once.",
            "task",
            "all it needs to know",
        )

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        agent = context.agent
        if not isinstance(agent, Delegating):
            raise TypeError(f"{type(agent).__name__} cannot run other agents")
        tools = agent.offered
        if agent.depth + 1 >= self._max_depth:
            tools = [tool for tool in tools if not isinstance(tool, Delegate)]
        end = await agent.delegate(arguments["task"], tools)
        if end.stop is Stop.FINISH:
            return ToolResult(f"The agent answered:\n{end.answer}")
        return ToolResult(f"The agent gave no answer (it ended by {end.stop}).")


# -- internals ---------------------------------------------------------------


def _schema(name: str, description: str, parameter: str, meaning: str) -> Mapping[str, Any]:
    """Of a tool that takes one text."""
    parameters = {
        "type": "object",
        "properties": {parameter: {"type": "string", "description": meaning}},
        "required": [parameter],
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _with_notes(agent: AgentContext, notes: str) -> Sequence[Message]:
    first = list(takewhile(lambda message: message["role"] != "assistant", agent.messages))
    last = first[-1]
    content = last["content"].partition(NOTES)[0] + NOTES + notes
    return [*first[:-1], Message(role=last["role"], content=content)]
