"""How does an agent say that it is done? By a tool, so that every turn is a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text
from evolute.envs.tools.contract import ToolContext, ToolResult


class Finish:
    """Ends the episode with an answer; where the work itself is judged (`asks` False) with none."""

    def __init__(
        self,
        *,
        asks: bool = True,
        description: str = "End the task and hand in the answer.",
        what: str = "the answer, and nothing else",
    ) -> None:
        self._schema = function_schema(
            "finish", description, {"answer": text(what)}, ["answer"] if asks else []
        )

    @property
    def schema(self) -> Schema:
        return self._schema

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        given = read_arguments(self._schema, arguments)
        return ToolResult(answer=str(given.get("answer", "")))
