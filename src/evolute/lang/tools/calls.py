"""The tools of a `TextRequest`, and the calls in its answer.

toolset_of(tools, tool_choice) -> Toolset           from {"type": "function", "function": {...}}
read_calls(text, tools, format, ...) -> text, calls
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.lang.backend import ToolCall, ToolChoice
from evolute.lang.tools.events import collect
from evolute.lang.tools.parsers import ToolFormat, parser
from evolute.lang.tools.toolset import BadTools, Choice, Tool, Toolset

CHOICES = (Choice.NONE, Choice.AUTO, Choice.REQUIRED)  # any other text names a tool


def toolset_of(tools: Sequence[Mapping[str, Any]], tool_choice: ToolChoice = "auto") -> Toolset:
    """Checked. Raises BadTools naming the place of what cannot be."""
    read = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    if tool_choice in CHOICES:
        return Toolset.of(read, Choice(tool_choice))
    return Toolset.of(read, Choice.NAMED, tool_choice)


def read_calls(
    text: str,
    tools: Sequence[Mapping[str, Any]],
    format: ToolFormat,
    tool_choice: ToolChoice = "auto",
) -> tuple[str, tuple[ToolCall, ...]]:
    """What a whole answer says beside its calls, and the calls. Each gets an id of its own.

    The arguments are JSON text as the model wrote it; cut short when the answer was.
    """
    reader = parser(toolset_of(tools, tool_choice), format)
    found = collect([*reader.push(text), *reader.finish()])
    calls = [ToolCall(new_call_id(), call.name, call.arguments) for call in found.calls]
    return found.text, tuple(calls)


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


# -- internals ---------------------------------------------------------------


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        text = f'{where} must be {{"type": "function", "function": {{"name": ...}}}}.'
        raise BadTools(text, param=where)
    return Tool(
        function["name"],
        function.get("description") or "",
        function.get("parameters"),
        strict=bool(function.get("strict")),
    )
