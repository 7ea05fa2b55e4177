"""Are two short answers the same? Exact match as question answering has it (SQuAD, Search-R1).

is_same_answer(given, gold)     without regard to case, articles, punctuation and blanks
"""

from __future__ import annotations

import re
import string

MAX_CHARS = 1000
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_same_answer(given: str | None, gold: str) -> bool:
    """An empty answer is never right."""
    if given is None or len(given) > MAX_CHARS:
        return False
    plain = plain_answer(given)
    return bool(plain) and plain == plain_answer(gold)


def plain_answer(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
