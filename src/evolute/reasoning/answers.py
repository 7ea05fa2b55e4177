"""Which part of a text is the answer?

final_answer(text)      the last box, "Answer:", number or line
marked_answer(text)     what the text itself marks as its answer, else None
code_of(text)           the last fenced program, or the whole text when it is one
"""

from __future__ import annotations

import ast
import re

MARK = re.compile(r"\banswer\b\**\s*(?:is\b\s*:?|[:=])[ \t*]*([^\s:=*].*)", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
FENCE = re.compile(r"```(?:[Pp]y(?:thon)?3?)?[^\S\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
BOX = "\\boxed{"


def final_answer(text: str) -> str:
    """The last box; else what follows the last "answer is" or "Answer:"; else the last number, its
    thousands' commas dropped; else the last line. "" for an empty text."""
    marked = marked_answer(text)
    if marked is not None:
        return marked
    numbers = NUMBER.findall(text)
    if numbers:
        return str(numbers[-1]).replace(",", "").removeprefix("+")
    lines = text.strip().splitlines()
    return _bare(lines[-1]) if lines else ""


def marked_answer(text: str) -> str | None:
    """The last box, else the rest of the line after the last "Answer:" or "answer is"."""
    box = _last_box(text)
    if box is not None:
        return box.strip()
    marks = [bare for found in MARK.findall(text) if (bare := _bare(found))]
    return marks[-1] if marks else None


def code_of(text: str) -> str | None:
    """The last fenced block; an unfinished one counts. Without fences the text, if it is Python
    with more than one bare expression. None when there is no program."""
    blocks = [block.strip("\n") for block in FENCE.findall(text) if block.strip()]
    if blocks:
        return str(blocks[-1])
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    calls = [s for s in body if not isinstance(s, ast.Expr) or isinstance(s.value, ast.Call)]
    return text.strip("\n") if calls else None


# -- internals ---------------------------------------------------------------


def _last_box(text: str) -> str | None:
    """The inside of the last \\boxed{...} whose braces are balanced."""
    start = text.rfind(BOX)
    while start >= 0:
        depth, first = 1, start + len(BOX)
        for place in range(first, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[first:place]
        start = text.rfind(BOX, 0, start)
    return None


def _bare(text: str) -> str:
    """Without the marks of formatting around it and a full stop at its end."""
    return text.strip().strip("*`$ ").removesuffix(".").strip("*`$ ")
