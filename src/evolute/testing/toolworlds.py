"""A small tool task for tests: add numbers up, by a tool, and say the sum.

SumTask()                       problems "3 5 8"; tools add, finish, and those that are given
SumTask(tools=[...])            further tools, e.g. `tool_of(name, call)`
task.worlds                     every world that was made, with what happened to it
tool_of(name, call, **types)    a Tool from a function of (arguments, context)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.envs.tools import Grade, Tool, ToolContext, ToolResult
from evolute.types import Message, Problem

ToolCall = Callable[[Mapping[str, Any], ToolContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class PlainTool:
    """A tool around a coroutine function."""

    schema: Mapping[str, Any]
    run: ToolCall

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        result: ToolResult = await self.run(arguments, context)
        return result


def tool_of(name: str, call: ToolCall, **types: str) -> PlainTool:
    """A tool whose parameters, all required, have these JSON types."""
    properties = {each: {"type": kind} for each, kind in types.items()}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(types),
        "additionalProperties": False,
    }
    function = {"name": name, "description": f"{name} it", "parameters": parameters}
    return PlainTool({"type": "function", "function": function}, call)


@dataclass
class SumWorld:
    """Right is the sum of the numbers; each `add` is remembered."""

    problem: Problem
    more: Sequence[Tool] = ()
    delays_s: Mapping[str, float] = field(default_factory=dict)  # start, grade, close
    added: list[int] = field(default_factory=list)
    started: bool = False
    graded: list[str | None] = field(default_factory=list)
    num_closes: int = 0

    async def start(self) -> None:
        await asyncio.sleep(self.delays_s.get("start", 0))
        self.started = True

    def instruction(self) -> Sequence[Message]:
        return self.problem.messages

    def tools(self) -> Sequence[Tool]:
        return [
            tool_of("add", self._add, a="integer", b="integer"),
            tool_of("finish", self._finish, answer="string"),
            *self.more,
        ]

    async def grade(self, answer: str | None) -> Grade:
        await asyncio.sleep(self.delays_s.get("grade", 0))
        self.graded.append(answer)
        is_right = answer is not None and answer.strip() == self.problem.gold
        return Grade(float(is_right), is_right, {"added": float(len(self.added))})

    async def close(self) -> None:
        self.num_closes += 1
        await asyncio.sleep(self.delays_s.get("close", 0))

    async def _add(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        self.added.append(arguments["a"] + arguments["b"])
        return ToolResult(str(self.added[-1]))

    async def _finish(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        return ToolResult(answer=arguments["answer"])


class SumTask:
    """Implements `envs.tools.ToolTask`."""

    name = "sums"

    def __init__(
        self, tools: Sequence[Tool] = (), delays_s: Mapping[str, float] | None = None
    ) -> None:
        self._tools, self._delays_s = tools, delays_s or {}
        self.worlds: list[SumWorld] = []

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        source = random.Random(f"{split}/{seed}")
        found = []
        for number in range(count):
            terms = [source.randint(1, 99) for _ in range(source.randint(2, 4))]
            text = " ".join(map(str, terms))
            asked: Message = {"role": "user", "content": f"Add up: {text}"}
            found.append(Problem(f"{split}-{number}: {text}", (asked,), str(sum(terms))))
        return found

    def world(self, problem: Problem) -> SumWorld:
        self.worlds.append(SumWorld(problem, self._tools, self._delays_s))
        return self.worlds[-1]
