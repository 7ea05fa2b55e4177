"""How does an agent read a corpus that lies here? Page by page: open, find, links."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text, whole
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.search import Page
from evolute.types import ToolError

PART = 3000  # characters of a page shown at a time
AROUND, MAX_FOUND = 80, 5
SCHEMA = function_schema(
    "browser",
    "Read pages of the corpus. `open`: a page by its title (a long one in parts). `find`: where a "
    "text stands on the open page. `links`: the pages that the open page links to.",
    {
        "command": text("what to do", "open", "find", "links"),
        "page": text("for open: the title of the page"),
        "part": whole("for open: which part of a long page, from 1 on"),
        "text": text("for find: what to look for"),
    },
    ["command"],
)


class Browser:
    """Keeps which page is open."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = {page.title.lower(): page for page in pages}
        self._open: Page | None = None

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        given = read_arguments(SCHEMA, arguments)
        if given["command"] == "open":
            return ToolResult(self._show(given.get("page", ""), given.get("part", 1)))
        if self._open is None:
            raise ToolError("no page is open; open one first.")
        if given["command"] == "links":
            titles = "\n".join(f"- {title}" for title in self._open.links)
            return ToolResult(titles or f"{self._open.title} links to no page.")
        return ToolResult(self._find(given.get("text", ""), self._open))

    # -- internals ---------------------------------------------------------------

    def _show(self, title: str, part: int) -> str:
        if not title.strip():
            raise ToolError("open needs page: the title of a page, as search gives it.")
        page = self._pages.get(title.strip().lower())
        if page is None:
            near = difflib.get_close_matches(title.strip().lower(), self._pages, 3, 0.5)
            titles = ", ".join(self._pages[one].title for one in near)
            hint = f"Titles like it: {titles}." if titles else "Search for it first."
            raise ToolError(f"no page is called {title[:100]!r}. {hint}")
        count = max(1, -(-len(page.text) // PART))
        if not 1 <= part <= count:
            raise ToolError(f"{page.title} has {count} parts; there is no part {part}.")
        self._open = page
        shown = page.text[(part - 1) * PART : part * PART]
        more = f"\n[part {part} of {count}]" if count > 1 else ""
        links = f"\nLinks: {', '.join(page.links)}" if page.links else ""
        return f"{page.title}\n{shown}{more}{links}"

    def _find(self, wanted: str, page: Page) -> str:
        if not wanted.strip():
            raise ToolError("find needs text: what to look for on the open page.")
        lowered, places, place = page.text.lower(), [], -1
        while (place := lowered.find(wanted.lower(), place + 1)) >= 0:
            places.append(place)
        if not places:
            return f"{wanted[:100]!r} does not stand on {page.title}."
        rows = []
        for place in places[:MAX_FOUND]:
            first, last = max(0, place - AROUND), place + len(wanted) + AROUND
            rows.append(f"- part {place // PART + 1}: ...{page.text[first:last]}...")
        more = f"\n[{len(places)} in all]" if len(places) > MAX_FOUND else ""
        return "\n".join(rows) + more
