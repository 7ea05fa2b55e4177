"""How does an agent ask a database? By queries; the rows come as text, with what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.envs.sql.execute import Database, QueryRefused, Rows
from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.shown import cut, printable
from evolute.types import ToolError

MAX_ROWS, MAX_CHARS = 50, 4000


class SqlTool:
    """`num_queries` (0: without end) is how many the agent may ask; each answer says what is left.

    The time limit is the smaller of `seconds` and the caller's.
    """

    def __init__(
        self,
        database: Database,
        *,
        num_queries: int = 0,
        seconds: float = 5.0,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._database, self._left, self._is_limited = database, num_queries, num_queries > 0
        self._seconds, self._max_rows = seconds, max_rows
        what = "a SELECT" if database.read_only else "a statement"
        self._schema = function_schema(
            "sql",
            f"Run {what} on the SQLite database and see the first {max_rows} rows. "
            "sqlite_master has the tables.",
            {"query": text("one SQL statement")},
            ["query"],
        )

    @property
    def schema(self) -> Schema:
        return self._schema

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        query = read_arguments(self._schema, arguments)["query"]
        if self._is_limited and self._left == 0:
            raise ToolError("no queries are left. Finish with your answer now.")
        if not query.strip():
            raise ToolError("query is empty; write one SQL statement.")
        self._left -= self._is_limited
        try:
            rows = await self._database.ask(
                query, seconds=min(self._seconds, context.timeout_s), max_rows=self._max_rows
            )
        except QueryRefused as refused:
            raise ToolError(f"the query failed: {refused}.{self._reminder()}") from refused
        return ToolResult(shown(rows) + self._reminder())

    def _reminder(self) -> str:
        if not self._is_limited:
            return ""
        left = f"{self._left} queries are left" if self._left != 1 else "1 query is left"
        return f"\n[{left}{'; finish next' if self._left == 0 else ''}]"


def shown(rows: Rows, most: int = MAX_CHARS) -> str:
    """A header, a line a row, and how many there are."""
    if not rows.columns:
        return "[done]"
    lines = [" | ".join(rows.columns)]
    lines += [" | ".join(_cell(value) for value in row) for row in rows.rows]
    number = len(rows.rows)
    count = f"the first {number} rows; there are more" if rows.is_cut else f"{number} rows"
    return printable(f"{cut(chr(10).join(lines), most)}\n[{count}]")


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
