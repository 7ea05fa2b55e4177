"""How does an agent read what does not fit its context? In parts, with a memory of its own.

`next_with_summary` is a tool on the agent itself: it puts the summary and the next part where the
talk so far was (MemAgent, arXiv 2507.02259; SkyRL-Agent, arXiv 2511.16108).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.shown import cut
from evolute.types import Message, ToolError

MAX_SUMMARY = 2000  # characters that are kept
SCHEMA = function_schema(
    "next_with_summary",
    "Go on to the next part of the document. Everything before is forgotten, but for the question "
    "and this summary: put into it all that may be needed.",
    {"summary": text("what to remember, also from the memory so far")},
    ["summary"],
)


class NextWithSummary:
    """Parts one after another. `part` is the one that is shown, from 0; after the last one there
    is a turn without a part, and then no further."""

    def __init__(self, question: str, parts: Sequence[str]) -> None:
        self._question, self._parts, self.part = question, list(parts), 0

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        summary = read_arguments(SCHEMA, arguments)["summary"]
        if self.part >= len(self._parts):
            raise ToolError("there are no more parts. Call finish with the answer.")
        self.part += 1
        context.agent.replace_history(
            [*_system(context.agent.messages), self.message(cut(summary.strip(), MAX_SUMMARY))]
        )
        return ToolResult(replaced=True, metrics={"parts": float(self.part)})

    def message(self, memory: str) -> Message:
        """What the agent is shown at its present part."""
        lines = [self._question]
        lines += [f"Your memory:\n{memory or 'nothing'}"] if self.part else []
        if self.part < len(self._parts):
            where = f"part {self.part + 1} of {len(self._parts)}"
            lines.append(f"Document, {where}:\n{self._parts[self.part]}")
            is_last = self.part == len(self._parts) - 1
            lines.append(
                "This is the last part: call finish with the answer."
                if is_last
                else "Call next_with_summary to go on."
            )
        else:
            lines.append("The document is read. Call finish with the answer.")
        return {"role": "user", "content": "\n\n".join(lines)}


def _system(messages: Sequence[Message]) -> list[Message]:
    """What stands before the talk: it stays."""
    kept: list[Message] = []
    for message in messages:
        if message["role"] != "system":
            break
        kept.append(message)
    return kept
