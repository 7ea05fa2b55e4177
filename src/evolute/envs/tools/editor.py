"""How does an agent read and change files? By an editor on its session's folder.

    view, create, str_replace, insert, undo

An edit that would break a Python file is refused, with the reason; every refusal says what to do.
Nothing outside the session's folder is read or written, whatever links there are.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from evolute.envs.sandbox.session import FOLDER, FileRefused, Session
from evolute.envs.tools.arguments import (
    Schema,
    function_schema,
    read_arguments,
    text,
    whole,
    whole_list,
)
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.edits import around, inserted, replaced
from evolute.envs.tools.shown import MAX_CHARS, numbered, printable
from evolute.types import ToolError

MAX_FILE = 2**20
MAX_UNDO = 50
NEEDS = {
    "view": (),
    "create": ("file_text",),
    "str_replace": ("old_str",),
    "insert": ("insert_line", "insert_text"),
    "undo": (),
}
SCHEMA = function_schema(
    "editor",
    f"View and edit files below {FOLDER}. `view`: a file with line numbers, or what lies in a "
    "folder. `create`: a new file, or all of an old one anew. `str_replace`: put new_str where "
    "old_str stands, which must be exactly once, white space included. `insert`: put insert_text "
    "behind line insert_line. `undo`: take back the last edit of this file.",
    {
        "command": text("what to do", *NEEDS),
        "path": text(f"of the file, from {FOLDER} on, or absolute"),
        "view_range": whole_list("for view: [first line, last line]; last -1: to the end"),
        "file_text": text("for create: the whole file"),
        "old_str": text("for str_replace: the text to replace"),
        "new_str": text('for str_replace: the text instead; "" removes'),
        "insert_line": whole("for insert: the line to insert behind; 0: before the first"),
        "insert_text": text("for insert: the lines to insert"),
    },
    ["command", "path"],
)


class Editor:
    """Keeps what each file was, for `undo`."""

    def __init__(self, session: Session, *, most: int = MAX_CHARS) -> None:
        self._session, self._most = session, most
        self._before: dict[str, list[bytes | None]] = {}

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        given = read_arguments(SCHEMA, arguments)
        command, path = given["command"], given["path"].strip()
        if not path:
            raise ToolError("path is empty; name a file, e.g. main.py.")
        missing = [name for name in NEEDS[command] if name not in given]
        if missing:
            raise ToolError(f"{command} needs {', '.join(missing)} too.")
        try:
            if command == "view":
                told = await self._view(path, given.get("view_range"))
            elif command == "undo":
                told = await self._undo(path)
            else:
                told = await self._edit(command, path, given)
            return ToolResult(printable(told))
        except FileRefused as refused:
            told = f"{refused}. {_advice(command, str(refused))}"
            raise ToolError(printable(told)) from refused

    # -- internals ---------------------------------------------------------------

    async def _view(self, path: str, lines: list[int] | None) -> str:
        entries = await self._session.entries(path)
        if entries is not None:
            if lines:
                raise ToolError(f"{path} is a folder; view_range is for files. Leave it out.")
            return "\n".join(entries) or f"[{path} is empty]"
        whole_text = await self._text(path)
        rows = whole_text.splitlines()
        first, last = _range(lines, len(rows), path)
        return _fitting(rows, first, last, self._most) if rows else f"[{path} is empty]"

    async def _edit(self, command: str, path: str, given: Mapping[str, Any]) -> str:
        before: str | None = None
        try:
            before = await self._text(path)
        except FileRefused as refused:
            if command != "create" or "does not exist" not in str(refused):
                raise
        after, line, num_lines = _changed(command, path, before, given)
        data = after.encode("utf-8", "surrogateescape")
        if len(data) > MAX_FILE:
            raise ToolError(f"{path} would have {len(data)} bytes; {MAX_FILE} are allowed.")
        warning = await self._check(path, before, data)
        await self._session.write({path: data})
        kept = self._before.setdefault(_key(path), [])
        kept.append(None if before is None else before.encode("utf-8", "surrogateescape"))
        del kept[:-MAX_UNDO]
        if command == "create":
            number = len(after.splitlines())
            return f"{path} is written, {number} lines.{warning}"
        return f"{path} is edited:{warning}\n{around(after, line, num_lines)}"

    async def _check(self, path: str, before: str | None, after: bytes) -> str:
        """Raises ToolError for an edit that breaks a Python file. What was broken before may be
        mended step by step: then a warning."""
        if not path.endswith(".py"):
            return ""
        why = await self._session.parse(after, path)
        if not why:
            return ""
        if before is not None:
            whole_before = before.encode("utf-8", "surrogateescape")
            if await self._session.parse(whole_before, path):
                return f" It is still no valid Python: {why}."
        raise ToolError(
            f"nothing was changed: {path} would be no valid Python ({why}). Mind the indentation "
            "and brackets, and try again."
        )

    async def _undo(self, path: str) -> str:
        kept = self._before.get(_key(path))
        if not kept:
            raise ToolError(f"there is no edit of {path} to take back; only the editor's own are.")
        before = kept[-1]
        if before is None:
            await self._session.remove(path)
        else:
            await self._session.write({path: before})
        kept.pop()
        return f"the last edit of {path} is taken back" + (
            "; it does not exist any more." if before is None else "."
        )

    async def _text(self, path: str) -> str:
        data = await self._session.read(path, MAX_FILE)
        if b"\0" in data:
            raise ToolError(f"{path} is no text; the editor is for text files.")
        return data.decode("utf-8", "surrogateescape")


def _changed(
    command: str, path: str, before: str | None, given: Mapping[str, Any]
) -> tuple[str, int, int]:
    """The new text, the line of the edit, and its number of lines."""
    if command == "create":
        return given["file_text"], 1, 0
    assert before is not None
    if command == "insert":
        new = given["insert_text"]
        after, line = inserted(before, given["insert_line"], new, path)
    else:
        new = given.get("new_str", "")
        after, line = replaced(before, given["old_str"], new, path)
    return after, line, len(new.splitlines())


def _range(lines: list[int] | None, count: int, path: str) -> tuple[int, int]:
    if lines is None:
        return 1, count
    if len(lines) != 2:
        raise ToolError(f"view_range is {lines}; it is [first line, last line], e.g. [1, 40].")
    first, last = lines[0], count if lines[1] == -1 else lines[1]
    if not 1 <= first <= max(1, count) or last < first:
        raise ToolError(
            f"view_range is {lines}; {path} has {count} lines, so the first must lie in 1 to "
            f"{count} and the last not before it."
        )
    return first, min(last, count)


def _fitting(rows: list[str], first: int, last: int, most: int) -> str:
    """As many whole lines as fit, and how to see the others."""
    size, end = 0, first
    for end in range(first, last + 1):
        size += min(len(rows[end - 1]), most // 4) + 8
        if size > most and end > first:
            end -= 1
            break
    shown = numbered([row[: most // 4] for row in rows[first - 1 : end]], first)
    if end < last:
        shown += f"\n[lines {end + 1} to {last} are left out: view_range [{end + 1}, {last}]]"
    return shown


def _key(path: str) -> str:
    return posixpath.normpath(posixpath.join(FOLDER, path))


def _advice(command: str, refused: str) -> str:
    if "does not exist" in refused:
        return "View the folder to see what is there, or create it."
    if "outside" in refused:
        return f"Only files below {FOLDER} can be viewed and edited."
    if "is a folder" in refused:
        return "Name a file in it."
    return "Choose another file." if command == "view" else "Nothing was changed."
