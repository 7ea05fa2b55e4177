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

__all__ = [
    "AgentContext",
    "Grade",
    "Tool",
    "ToolContext",
    "ToolResult",
    "ToolTask",
    "ToolWorld",
]
