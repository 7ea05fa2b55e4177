"""How does an agent search a corpus that lies here? By BM25 over its pages.

SearchIndex(pages).top(query, k)      the best pages
Search(index)                         the tool
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.retrieval import Bm25
from evolute.envs.tools.shown import MAX_CHARS, cut
from evolute.types import ToolError

SNIPPET = 160  # characters


class Page(Protocol):
    """What is searched: `links` are titles of other pages."""

    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def links(self) -> tuple[str, ...]: ...


class SearchIndex:
    """Titles count as three times the text: who asks for a name wants its page first."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = tuple(pages)
        self._ranking = Bm25([f"{(page.title + ' ') * 3}{page.text}" for page in self.pages])

    def top(self, query: str, k: int) -> list[Page]:
        return [self.pages[index] for index, _ in self._ranking.top(query, k)]


class Search:
    """`num_results` pages a query: their beginning, or with `whole` all of each."""

    def __init__(self, index: SearchIndex, *, num_results: int = 3, whole: bool = False) -> None:
        self._index, self._num_results, self._whole = index, num_results, whole
        hint = "" if whole else " Open pages with the browser to read all of them."
        self._schema = function_schema(
            "search",
            f"Search the corpus by words; gives the {num_results} best pages.{hint}",
            {"query": text("words to look for")},
            ["query"],
        )

    @property
    def schema(self) -> Schema:
        return self._schema

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        query = read_arguments(self._schema, arguments)["query"]
        if not query.strip():
            raise ToolError("query is empty; write the words to look for.")
        found = self._index.top(query, self._num_results)
        if not found:
            return ToolResult("Nothing found. Use other words.", metrics={"found": 0.0})
        rows = [f"{k}. {page.title}\n{self._part(page)}" for k, page in enumerate(found, 1)]
        return ToolResult(cut("\n".join(rows), MAX_CHARS), metrics={"found": float(len(found))})

    def _part(self, page: Page) -> str:
        is_short = self._whole or len(page.text) <= SNIPPET
        return page.text if is_short else page.text[:SNIPPET].rsplit(" ", 1)[0] + " ..."
