"""How much of a long text is a model shown?

cut(text, most)            beginning and end, with what was left out in the middle
numbered(lines, first)     lines with their numbers
printable(text)            what no UTF-8 holds is replaced
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_CHARS = 8000


def cut(text: str, most: int = MAX_CHARS) -> str:
    """The text, or its first two thirds and last third of `most` characters."""
    if len(text) <= most:
        return text
    tail = most // 3
    head = most - tail
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[-tail:]}"


def numbered(lines: Sequence[str], first: int = 1) -> str:
    """One line each: its number, a tab, the line."""
    return "\n".join(f"{number:6d}\t{line}" for number, line in enumerate(lines, first))


def printable(text: str) -> str:
    """The text with lone surrogates, which stand for bytes that are no UTF-8, replaced."""
    return text.encode("utf-8", "replace").decode()
