"""Tools: which ones are offered, how a model is told, and how its calls are read."""

from evolute.lang.tools.calls import new_call_id, read_calls, toolset_of
from evolute.lang.tools.events import (
    Arguments,
    Call,
    CallStarted,
    Collected,
    Event,
    Parser,
    Text,
    collect,
)
from evolute.lang.tools.functions import call, tool
from evolute.lang.tools.grammar import constraint
from evolute.lang.tools.parsers import ToolFormat, format_of, hides_tags, parser
from evolute.lang.tools.running import as_tools, results_of
from evolute.lang.tools.told import in_text
from evolute.lang.tools.toolset import BadTools, Choice, Tool, Toolset

__all__ = [
    "Arguments",
    "BadTools",
    "Call",
    "CallStarted",
    "Choice",
    "Collected",
    "Event",
    "Parser",
    "Text",
    "Tool",
    "ToolFormat",
    "Toolset",
    "as_tools",
    "call",
    "collect",
    "constraint",
    "format_of",
    "hides_tags",
    "in_text",
    "new_call_id",
    "parser",
    "read_calls",
    "results_of",
    "tool",
    "toolset_of",
]
