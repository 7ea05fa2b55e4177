"""What does an edit make of a text, and what is a model told when it cannot be made?

replaced(text, old, new)            where `old` stands, once; ToolError says what is there
inserted(text, line, new)           behind that line; 0: before the first
around(text, line, num_lines)       the lines of an edit with some around them
"""

from __future__ import annotations

import difflib
import re

from evolute.envs.tools.shown import numbered
from evolute.types import ToolError

SIMILAR, NUM_SIMILAR = 0.6, 3
MAX_COMPARED = 20_000  # lines
MAX_LINE = 200
MAX_PLACES = 20
AROUND = 4


def replaced(text: str, old: str, new: str, path: str) -> tuple[str, int]:
    """The new text, and the line where the edit begins (from 1). Raises ToolError unless `old`
    stands there exactly once."""
    if not old:
        raise ToolError(
            "old_str is empty. Give the lines to replace, or use `insert` to add, or `create` to "
            "write a whole file."
        )
    if old == new:
        raise ToolError("old_str and new_str are the same, so nothing would change.")
    if "\r\n" in text and "\r\n" not in old and old not in text:
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
    places = [found.start() for found in re.finditer(f"(?={re.escape(old)})", text)]
    if not places:
        raise ToolError(_no_match(text, old, path))
    if len(places) > 1:
        lines = [str(text.count("\n", 0, place) + 1) for place in places]
        more = f" and {len(lines) - MAX_PLACES} more" if len(lines) > MAX_PLACES else ""
        raise ToolError(
            f"old_str stands {len(places)} times in {path}, at lines "
            f"{', '.join(lines[:MAX_PLACES])}{more}. Add lines around it so that it is unique."
        )
    (place,) = places
    return text[:place] + new + text[place + len(old) :], text.count("\n", 0, place) + 1


def inserted(text: str, line: int, new: str, path: str) -> tuple[str, int]:
    """The new text, and the line where the new lines begin. Raises ToolError for a line that is
    not there."""
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True) if text else []
    if not 0 <= line <= len(lines):
        raise ToolError(
            f"insert_line is {line}; {path} has {len(lines)} lines, so it must be 0 (before the "
            f"first) to {len(lines)} (behind the last)."
        )
    if line and not lines[line - 1].endswith(("\n", "\r")):
        lines[line - 1] += ending
    new = ending.join(new.splitlines()) + ending if new else ending
    return "".join([*lines[:line], new, *lines[line:]]), line + 1


def around(text: str, line: int, num_lines: int) -> str:
    """An edit with a few lines on each side, numbered."""
    lines = text.splitlines()
    first = max(1, line - AROUND)
    return numbered(lines[first - 1 : line - 1 + num_lines + AROUND], first)


# -- internals ---------------------------------------------------------------


def _no_match(text: str, old: str, path: str) -> str:
    wanted = next((line for line in old.splitlines() if line.strip()), "")
    lines = text.splitlines()
    head = f"old_str does not stand in {path}."
    same = [
        n for n, line in enumerate(lines, 1) if wanted.strip() and line.strip() == wanted.strip()
    ]
    if same:
        shown = ", ".join(str(number) for number in same[:NUM_SIMILAR])
        return (
            f"{head} Its first line stands at line {shown}, but white space or a later line "
            f"differs there. View those lines and copy them exactly:\n"
            + "\n".join(around(text, n, len(old.splitlines())) for n in same[:1])
        )
    near = _similar(lines, wanted)
    if not near:
        return f"{head} No line is like it either; view the file and copy the lines exactly."
    shown = "\n".join(f"{number:6d}\t{lines[number - 1][:MAX_LINE]}" for number in near)
    return f"{head} Similar lines; copy what is there exactly:\n{shown}"


def _similar(lines: list[str], wanted: str) -> list[int]:
    """Line numbers, the most similar first."""
    wanted = wanted.strip()[:MAX_LINE]
    scored = []
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)
    for number, line in enumerate(lines[:MAX_COMPARED], 1):
        matcher.set_seq1(line.strip()[:MAX_LINE])
        if matcher.real_quick_ratio() >= SIMILAR and matcher.quick_ratio() >= SIMILAR:
            ratio = matcher.ratio()
            if ratio >= SIMILAR:
                scored.append((-ratio, number))
    return [number for _, number in sorted(scored)[:NUM_SIMILAR]]
