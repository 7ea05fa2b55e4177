r"""Is the final answer of a solution the right one? By the line `Answer: ...`.

is_right(solution, gold)      the last such line, both sides normalised
normalised(answer)            what is left of an answer without its dress

The normalisation is that of Minerva (Lewkowycz et al. 2022, arXiv 2206.14858, appendix D): units,
articles, dollars, \text and \boxed go, short \frac and \sqrt get their braces, thousands' commas
go. Unlike there, words are removed as words, a full stop at the end goes, and two whole numbers are
compared as numbers (AIME's answers have leading zeros).
"""

from __future__ import annotations

import re

TAIL = 300  # characters of a solution that are looked at
_ANSWER = re.compile(r"answer\s*:\s*([^\n<]+)", re.IGNORECASE)
_WORDS = re.compile(
    r"\b(?:a|an|the|and|square|ways|integers|dollars|mph|inches|hours|km|units|points|feet|minutes|"
    r"digits|cents|degrees|cm|gm|pounds|meters|meals|edges|students|multiples)\b"
)
_DRESSED = re.compile(r"\\(?:text|textbf|mbox|overline|mathrm)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}")
_SPACES = re.compile(r"\\[ ,;:!]|\\(?:l?dots|left|right|quad|circ)|\^\s*\{?\\circ\}?|~|\s")
_WHOLE = re.compile(r"[+-]?\d+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def is_right(solution: str, gold: str) -> bool:
    """False without an answer line. Only the last 300 characters count."""
    found = _ANSWER.findall(solution[-TAIL:])
    if not found:
        return False
    given, right = normalised(found[-1]), normalised(gold)
    if _WHOLE.fullmatch(given) and _WHOLE.fullmatch(right):
        return len(given) < TAIL and int(given) == int(right)
    return given == right


def normalised(answer: str) -> str:
    r"""Of `$x = \frac12$` it is `\frac{1}{2}`."""
    text = answer.strip().rstrip(".").strip()
    inner = re.search(r"(?<!\\)\$(.+?)(?<!\\)\$", text)
    text = inner[1] if inner else text
    text = text.split("=")[-1]
    while (boxed := _BOXED.sub(r"\1", text)) != text:
        text = boxed
    while (bare := _DRESSED.sub(r"\1", text)) != text:
        text = bare
    text = re.sub(r"\^\s*\{?\\circ\}?", "", text)
    text = text.replace("{,}", ",").replace("\\$", "").replace("$", "").replace('"', "")
    text = _WORDS.sub("", text).replace("\\%", "%").removesuffix("%")
    text = _SPACES.sub("", text)
    text = text.replace("dfrac", "frac").replace("tfrac", "frac")
    text = re.sub(r"\\frac([^{])(.)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt([^{\[])", r"\\sqrt{\1}", text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return text.rstrip(".")
