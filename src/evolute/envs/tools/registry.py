"""Families whose worlds are acted on through tools, by name.

make_tool_task("repair?told=line", make_sandbox) -> ToolTask
tool_task_names()
await validate_tool_task(task)      the demonstrated calls earn 1, doing nothing less
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from evolute.envs.sandbox.build import make_sandbox
from evolute.envs.sandbox.contract import Sandbox
from evolute.envs.tools.contract import ToolContext, ToolTask, ToolWorld
from evolute.envs.tools.worlds import Call, with_sessions
from evolute.types import ConfigError, Message
from evolute.types.settings import nearest

MakeSandbox = Callable[[], Sandbox]


@dataclass(frozen=True, slots=True)
class Family:
    """Where a family is made. Its module is loaded when it is asked for: families use tools, so
    the tools' own room must not load them."""

    module: str
    function: str
    needs_sandbox: bool = False


TOOL_TASKS = {
    "memory-qa": Family("evolute.envs.memory.task", "memory_task"),
    "repair": Family("evolute.envs.repair.task", "repair_task", needs_sandbox=True),
    "search-qa": Family("evolute.envs.search.task", "search_task"),
    "sql": Family("evolute.envs.sql.task", "sql_task"),
}


def tool_task_names() -> list[str]:
    return sorted(TOOL_TASKS)


def make_tool_task(name: str, sandbox: MakeSandbox = make_sandbox) -> ToolTask:
    """A family by name with options. Raises ConfigError with the nearest known name, and where a
    sandbox is needed and none can be had."""
    family = name.partition("?")[0]
    if family not in TOOL_TASKS:
        raise ConfigError(
            f"no task with tools is called {family!r}. {nearest(family, list(TOOL_TASKS))}"
        )
    known = TOOL_TASKS[family]
    make = getattr(import_module(known.module), known.function)
    held = (with_sessions(sandbox(), family),) if known.needs_sandbox else ()
    made: ToolTask = make(name, *held)
    return made


async def validate_tool_task(task: Any, count: int = 4, split: str = "train") -> None:
    """Raise ConfigError unless the family's own demonstrations earn 1 and doing nothing earns
    less."""
    for problem in task.problems(split, count):
        calls = task.gold_calls(problem)
        for played, is_right in ((calls, True), ((("finish", {"answer": "no idea"}),), False)):
            grade = await play_calls(task.world(problem), played)
            if (grade.reward >= 1.0) != is_right or grade.is_right != is_right:
                raise ConfigError(
                    f"task {task.name!r} gives {played!r} a reward of {grade.reward} on "
                    f"{problem.id[:200]!r}."
                )


async def play_calls(world: ToolWorld, calls: Sequence[Call]) -> Any:
    """The grade of calls made one after another, up to the one that ends the episode."""
    agent = PlainAgent()
    context = ToolContext(agent, "validate")
    try:
        await world.start()
        agent.messages = list(world.instruction())
        tools = {tool.schema["function"]["name"]: tool for tool in world.tools()}
        answer = None
        for name, arguments in calls:
            answer = (await tools[name].call(arguments, context)).answer
            if answer is not None:
                break
        return await world.grade(answer)
    finally:
        await world.close()


class PlainAgent:
    """An `AgentContext` with nothing behind it."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages: Sequence[Message] = list(messages)

    def replace_history(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
