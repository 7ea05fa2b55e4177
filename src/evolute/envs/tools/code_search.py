"""How does an agent find its way in a repository? By names, texts and words, over an index.

For each term: an exact id, else entities of that name (whatever the case, then its last part, then
ids that contain it); where the text stands; and if neither gave anything, BM25 over files. What is
shown grows with how sure the match is, and each answer says what to ask next (SkyRL-Agent, arXiv
2511.16108, after LocAgent). The index is outside the repository and follows every edit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolute.envs.sandbox.session import FOLDER, Command, FileRefused, Session
from evolute.envs.tools import code_display as display
from evolute.envs.tools.arguments import (
    Schema,
    function_schema,
    read_arguments,
    text,
    text_list,
    whole_list,
)
from evolute.envs.tools.code_index import CodeIndex, Entity
from evolute.envs.tools.code_outline import Row
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.shown import MAX_CHARS, cut, numbered
from evolute.types import ToolError

OUTLINE = Path(__file__).with_name("code_outline.py")
PROGRAM = ("python3", "-s", "-S", "-B", "-c", OUTLINE.read_text())
MAX_BYTES, MAX_TERMS = 16 * 2**20, 8
NUM_PREVIEWS, NUM_RANKED, AROUND_LINE = 3, 3, 20
DEFAULT_PATTERN = "**/*.py"
SCHEMA = function_schema(
    "code_search",
    "Find code in the repository's Python files: by id (`pkg/mod.py:Class.method`), by the name of "
    "a class, function or file, or by any text that stands in it; or show given lines of a file.",
    {
        "search_terms": text_list("what to look for, each on its own"),
        "line_nums": whole_list("lines to show with what is around them; name the file too"),
        "file_path_or_pattern": text(f"where to look first, default {DEFAULT_PATTERN}"),
    },
)


class CodeSearch:
    """Over the Python files of a session's folder."""

    def __init__(self, session: Session, *, most: int = MAX_CHARS) -> None:
        self._session, self._most = session, most
        self.index = CodeIndex()

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        given = read_arguments(SCHEMA, arguments)
        terms = [term.strip() for term in given.get("search_terms", []) if term.strip()]
        lines = given.get("line_nums", [])
        if not terms and not lines:
            raise ToolError("give search_terms, or line_nums with file_path_or_pattern.")
        if len(terms) > MAX_TERMS:
            raise ToolError(f"{len(terms)} search_terms; at most {MAX_TERMS} at a time.")
        await self.refresh()
        pattern = given.get("file_path_or_pattern", DEFAULT_PATTERN)
        pattern = pattern.removeprefix(FOLDER + "/") or DEFAULT_PATTERN
        return ToolResult(cut(answer(self.index, terms, lines, pattern), self._most))

    async def refresh(self) -> None:
        """Bring the index up to what the files are now; only changed ones are read anew."""
        try:
            files = await self._session.collect((".py",), MAX_BYTES)
        except FileRefused as refused:
            raise ToolError(f"the repository cannot be searched: {refused}. Use bash.") from refused
        texts = {path: data.decode("utf-8", "replace") for path, data in files.items()}
        changed = {p: t for p, t in texts.items() if self.index.files.get(p) != t}
        self.index.drop(self.index.files.keys() - texts.keys())
        if changed:
            self.index.update(changed, await self._outlines(list(changed)))

    async def _outlines(self, paths: Sequence[str]) -> dict[str, list[Row] | None]:
        """A file that brings the parser down is left out, and those behind it are tried again."""
        found: dict[str, list[Row] | None] = {}
        while left := [path for path in paths if path not in found]:
            command = Command(
                PROGRAM, json.dumps(left).encode(), seconds=20.0, max_output_bytes=2**26
            )
            report = await self._session.run(command)
            for line in report.stdout.splitlines():
                try:
                    path, rows = json.loads(line)
                    known = None if rows is None else [_row(row) for row in rows]
                except (ValueError, TypeError, RecursionError):
                    break
                found[str(path)] = known
            found.setdefault(left[0], None)
            if report.is_ok:
                break
        return found


def answer(index: CodeIndex, terms: Sequence[str], lines: Sequence[int], pattern: str) -> str:
    """What the model is told. Raises ToolError for a pattern that names no file."""
    paths = index.matching(pattern)
    if not paths:
        known = ", ".join(sorted(index.files)[:5]) or "there are none"
        raise ToolError(f"no Python file matches {pattern!r}. Some that are there: {known}.")
    parts = []
    if lines:
        parts.append(_at_lines(index, paths, lines))
    shown: dict[str, int] = {}  # id -> the level it is shown at, so that none is shown twice
    for term in terms:
        parts.append(_about(index, term, paths, shown))
    return "\n\n".join(parts)


# -- internals ---------------------------------------------------------------


def _row(row: Sequence[Any]) -> Row:
    kind, name, first, last = row
    return str(kind), str(name), int(first), int(last)


def _at_lines(index: CodeIndex, paths: Sequence[str], lines: Sequence[int]) -> str:
    if len(paths) > 1:
        raise ToolError(
            f"line_nums needs one file, {len(paths)} match; name it in file_path_or_pattern."
        )
    (path,) = paths
    rows = index.files[path].splitlines()
    wrong = [line for line in lines if not 1 <= line <= len(rows)]
    if wrong:
        raise ToolError(f"{path} has {len(rows)} lines; there is no line {wrong[0]}.")
    wanted: list[tuple[int, int]] = []
    for line in sorted(set(lines)):
        first, last = max(1, line - AROUND_LINE), min(len(rows), line + AROUND_LINE)
        if wanted and first <= wanted[-1][1] + 1:
            first = wanted.pop()[0]
        wanted.append((first, last))
    shown = [numbered(rows[first - 1 : last], first) for first, last in wanted]
    return f"{path}:\n" + "\n[...]\n".join(shown)


def _about(index: CodeIndex, term: str, paths: Sequence[str], shown: dict[str, int]) -> str:
    head = f"## {term}"
    wanted = term.removeprefix(FOLDER + "/").strip("/")
    if wanted in index.files:
        return f"{head}\n{display.outlined(index, wanted)}"
    below = [path for path in index.files if path.startswith(wanted + "/")]
    if wanted and below:
        rows = [f"- {path}" for path in sorted(below)[: display.MAX_FOLDED]]
        return "\n".join([head, *rows, "Next: search one of these files for its outline."])
    entity = index.by_id(wanted)
    if entity is not None:
        shown[entity.id] = 0
        return f"{head}\n{display.complete(index, entity)}"
    parts = [head]
    entities = index.entities(wanted, paths)
    fresh = [entity for entity in entities if entity.id not in shown]
    if fresh:
        parts.append(_entities(index, fresh, shown))
    elif entities:
        parts.append(f"{', '.join(entity.id for entity in entities)}: see above.")
    found = index.lines(term, paths)
    if found:
        parts.append(display.places(found))
    if len(parts) == 1:
        ranked = index.ranked(term, paths, NUM_RANKED)
        parts += [display.snippet(index, path, line) for path, line in ranked]
        if ranked:
            parts.insert(1, "No such name or text. Files with some of these words:")
            parts.append(f"Next: search `{ranked[0][0]}` for its outline, or use fewer words.")
        else:
            parts.append("Nothing found. Use other words, or a shorter part of the name.")
    return "\n".join(parts)


def _entities(index: CodeIndex, entities: Sequence[Entity], shown: dict[str, int]) -> str:
    if len(entities) > NUM_PREVIEWS:
        return display.folded(entities)
    shown.update({entity.id: 1 for entity in entities})
    return "\n".join(display.preview(index, entity) for entity in entities)
