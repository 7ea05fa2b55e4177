"""Tools: which ones a request offers, how a model is told, and how its calls are read."""

from evolute.server.tools.events import (
    Arguments,
    Call,
    CallStarted,
    Collected,
    Event,
    Parser,
    Text,
    collect,
)
from evolute.server.tools.grammar import constraint
from evolute.server.tools.parsers import ToolFormat, format_of, hides_tags, parser
from evolute.server.tools.prompt import Conversation, prompt_of
from evolute.server.tools.toolset import Choice, Tool, Toolset, parse_arguments

__all__ = [
    "Arguments",
    "Call",
    "CallStarted",
    "Choice",
    "Collected",
    "Conversation",
    "Event",
    "Parser",
    "Text",
    "Tool",
    "ToolFormat",
    "Toolset",
    "collect",
    "constraint",
    "format_of",
    "hides_tags",
    "parse_arguments",
    "parser",
    "prompt_of",
]
