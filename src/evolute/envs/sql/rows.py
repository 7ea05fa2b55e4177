"""Do two queries give the same rows?

same_rows(one, other, ordered)      as lists where the query orders, else as multisets
is_ordered(query)                   does its outermost SELECT say ORDER BY?
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

Row = Sequence[Any]
_SKIPPED = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL
)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)


def same_rows(one: Sequence[Row], other: Sequence[Row], *, ordered: bool) -> bool:
    """Numbers agree to nine digits, 1 and 1.0 are the same; text is compared as it is. Columns
    are compared by their places."""
    left, right = ([tuple(map(_plain, row)) for row in rows] for rows in (one, other))
    return left == right if ordered else Counter(left) == Counter(right)


def is_ordered(query: str) -> bool:
    text = _SKIPPED.sub(" ", query)
    while (flat := re.sub(r"\([^()]*\)", " ", text)) != text:
        text = flat
    return _ORDER.search(text) is not None


# -- internals ---------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        if isinstance(value, int) and abs(value) >= 10**9:
            return ("number", str(value))
        text = f"{value:.9g}"
        return ("number", "0" if text == "-0" else text)
    return (type(value).__name__, value)
