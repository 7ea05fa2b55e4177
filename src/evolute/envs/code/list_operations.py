"""Operations on lists of integers, of which programs are made: phrase, expression, easy mistake.

OPERATIONS              by name
source_of(expressions)  a Python function `f(xs)` that applies them in order
apply(expressions, xs)  what it gives
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType


@dataclass(frozen=True, slots=True)
class Operation:
    """`mistake` is a plausible misreading that agrees on many inputs; "" where there is none."""

    phrase: str
    expression: str  # of xs
    mistake: str = ""


def _each(expression: str, condition: str = "") -> str:
    return f"[{expression} for x in xs{' if ' + condition if condition else ''}]"


NEIGHBOURS = "for a, b in zip(xs, xs[1:])]"
FRESH = "[x for i, x in enumerate(xs) if i == 0 or x != xs[i - 1]]"
OPERATIONS = {
    "reverse": Operation("reverse the list", "xs[::-1]"),
    "sort": Operation("sort from smallest to largest", "sorted(xs)", "sorted(xs, key=abs)"),
    "sort-down": Operation(
        "sort from largest to smallest",
        "sorted(xs, reverse=True)",
        "sorted(xs, key=abs, reverse=True)",
    ),
    "dedup": Operation(
        "drop repeated values, keeping the first of each", "list(dict.fromkeys(xs))", FRESH
    ),
    "evens": Operation(
        "keep the even numbers", _each("x", "x % 2 == 0"), _each("x", "x > 0 and x % 2 == 0")
    ),
    "odds": Operation(
        "keep the odd numbers", _each("x", "x % 2 == 1"), _each("x", "x > 0 and x % 2 == 1")
    ),
    "positives": Operation(
        "keep the numbers above zero", _each("x", "x > 0"), _each("x", "x >= 0")
    ),
    "negatives": Operation(
        "keep the numbers below zero", _each("x", "x < 0"), _each("x", "x <= 0")
    ),
    "double": Operation("double each number", _each("2 * x"), _each("x + abs(x)")),
    "square": Operation("square each number", _each("x * x"), _each("x * abs(x)")),
    "negate": Operation("negate each number", _each("-x"), _each("-abs(x)")),
    "absolute": Operation("take absolute values", _each("abs(x)"), _each("max(x, 0)")),
    "increment": Operation("add one to each number", _each("x + 1")),
    "modulo": Operation("take each number modulo 7", _each("x % 7"), _each("abs(x) % 7")),
    "clip": Operation(
        "limit each number to the range -5 to 5",
        _each("max(-5, min(5, x))"),
        _each("min(5, x)"),
    ),
    "take": Operation(
        "keep the first three elements", "xs[:3]", "xs[:3] if len(xs) > 3 else xs[:2]"
    ),
    "drop": Operation("drop the first two elements", "xs[2:]", "xs[2:] if len(xs) > 3 else xs[1:]"),
    "last": Operation("keep the last three elements", "xs[-3:]", "xs[-3:] if len(xs) > 3 else []"),
    "every-other": Operation("keep every other element, starting with the first", "xs[::2]"),
    "totals": Operation(
        "replace each element by the sum of all up to it",
        "[sum(xs[:i + 1]) for i in range(len(xs))]",
    ),
    "differences": Operation(
        "replace the list by the differences of neighbours, later minus earlier",
        f"[b - a {NEIGHBOURS}",
        f"[abs(b - a) {NEIGHBOURS}",
    ),
    "sums": Operation("replace the list by the sums of neighbours", f"[a + b {NEIGHBOURS}"),
    "rotate": Operation("move the first element to the end", "xs[1:] + xs[:1]"),
    "drop-largest": Operation(
        "drop every element that equals the largest",
        "[x for x in xs if x != max(xs)]",
        "sorted(xs)[:-1]",
    ),
}


def source_of(expressions: Sequence[str]) -> str:
    """The program as text."""
    lines = ["def f(xs):", *(f"    xs = {one}" for one in expressions), "    return xs"]
    return "\n".join(lines) + "\n"


def apply(expressions: Sequence[str], xs: Sequence[int]) -> list[int]:
    """What the program gives. The expressions are those of this file, never a model's."""
    value = list(xs)
    for expression in expressions:
        value = list(eval(_compiled(expression), {"xs": value}))
    return value


# -- internals ---------------------------------------------------------------


KNOWN = {
    text
    for operation in OPERATIONS.values()
    for text in (operation.expression, operation.mistake)
    if text
}


@cache
def _compiled(expression: str) -> CodeType:
    assert expression in KNOWN, "only expressions of this file are evaluated here"
    return compile(expression, "list_operations", "eval")
