"""Tools, and worlds that agents act on through them."""

from evolute.envs.tools.contract import (
    AgentContext,
    Grade,
    Tool,
    ToolContext,
    ToolResult,
    ToolTask,
    ToolWorld,
)
from evolute.envs.tools.registry import (
    make_tool_task,
    play_calls,
    tool_task_names,
    validate_tool_task,
)

__all__ = [
    "AgentContext",
    "Grade",
    "Tool",
    "ToolContext",
    "ToolResult",
    "ToolTask",
    "ToolWorld",
    "make_tool_task",
    "play_calls",
    "tool_task_names",
    "validate_tool_task",
]
