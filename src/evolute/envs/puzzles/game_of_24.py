"""Game of 24: reach a target with four numbers, each used once.

    game_of_24("game-of-24?target=36")    the task; `low`, `high` bound the numbers
    solve_24(numbers, target)             one expression, or None; exact
    reaches(text, numbers, target)        is this expression right?

The four numbers stand in order, so that a hand is in one split however it is shuffled. Numbers are
counted and values are fractions: 12 + 12 does not pass, 8 / (3 - 8 / 3) does.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial

from evolute.envs.puzzles.task import PuzzleTask, between, read_options

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
HAND = re.compile(r"numbers ([\d, ]+) .*?\bmake (\d+)\b", re.DOTALL)
EXPRESSION = re.compile(r"[\d(][\d\s()+\-*/]*")
SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})
MAX_CHARS = 120  # of one expression


def game_of_24(name: str) -> PuzzleTask:
    """`game-of-24?target=24&low=1&high=13`: a hand of four numbers that has a solution."""
    options = read_options(name, {"target": 24, "low": 1, "high": 13})
    target = between("game-of-24", options, "target", 1, 1000)
    low = between("game-of-24", options, "low", 1, 99)
    high = between("game-of-24", options, "high", low, 99)
    draw = partial(_draw, target, low, high)
    return PuzzleTask(name, draw, _grade, max_new_tokens=48, check="game-of-24")


def read_hand(question: str) -> tuple[list[int], int] | None:
    """Numbers and target of a question, None when it asks for something else."""
    found = HAND.search(question)
    if found is None:
        return None
    return [int(n) for n in re.findall(r"\d+", found[1])], int(found[2])


def reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the last expression of a text uses the numbers once each and gives the target.

    "= 24" after it is allowed; what stands before a colon on its line is not read.
    """
    expression = last_expression(text)
    if expression is None:
        return False
    try:
        tree = ast.parse(expression, mode="eval").body
        literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        is_right = _value(tree) == target
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return is_right and sorted(map(str, literals)) == sorted(map(str, numbers))


def last_expression(text: str) -> str | None:
    """The last line's arithmetic with at least one operator, without its "= result"."""
    for line in reversed(text.strip().splitlines()):
        part = line.rpartition(":")[2].translate(SIGNS).partition("=")[0]
        found = [e.strip() for e in EXPRESSION.findall(part) if re.search(r"\d.*[+\-*/]", e)]
        if found:
            return found[-1] if len(found[-1]) <= MAX_CHARS else None
    return None


@lru_cache(maxsize=8192)
def solve_24(numbers: tuple[int, ...], target: int) -> str | None:
    """One expression that reaches the target, by joining two values until one is left."""
    return _join(tuple((Fraction(n), str(n)) for n in numbers), target)


# -- internals ---------------------------------------------------------------

Terms = tuple[tuple[Fraction, str], ...]


def _draw(target: int, low: int, high: int, source: random.Random) -> tuple[str, str]:
    gold = None
    while gold is None:
        numbers = tuple(sorted(source.randint(low, high) for _ in range(4)))
        gold = solve_24(numbers, target)
    hand = ", ".join(map(str, numbers))
    question = (
        f"Use the numbers {hand} with +, -, *, / and brackets to make {target}. Use each number "
        "exactly once. Answer with the expression only."
    )
    return question, gold


def _grade(question: str, gold: str, answer: str) -> bool:
    hand = read_hand(question)
    assert hand is not None, "our own question"
    return reaches(answer, *hand)


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not an expression of + - * / on whole numbers")


def _join(terms: Terms, target: int) -> str | None:
    if len(terms) == 1:
        return terms[0][1] if terms[0][0] == target else None
    for i, (a, left) in enumerate(terms):
        for j, (b, right) in enumerate(terms):
            if i == j:
                continue
            rest = tuple(t for k, t in enumerate(terms) if k not in (i, j))
            for sign, apply in (("+", operator.add), ("-", operator.sub), ("*", operator.mul)):
                if sign != "-" and i > j:
                    continue
                joined = (apply(a, b), f"({left} {sign} {right})")
                if (found := _join((*rest, joined), target)) is not None:
                    return found
            if b:
                found = _join((*rest, (a / b, f"({left} / {right})")), target)
                if found is not None:
                    return found
    return None
