"""Shapes: which figure does an SVG path draw?

    shapes("shapes?digits=2")      `digits` after the point of the coordinates

Polygons are drawn with the pen lifted at random corners (an extra M at the place where it is), as
in BIG-bench's geometric shapes, so that counting commands is not enough: lines are what counts.
"""

from __future__ import annotations

import math
import random
import re
from functools import partial

from evolute.envs.puzzles.task import PuzzleTask, between, read_options

POLYGONS = {3: "triangle", 5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon"}
ROUND, FOUR_CORNERS = ("circle", "sector"), ("kite", "rectangle")
NAMES = tuple(sorted([*ROUND, *FOUR_CORNERS, "line", *POLYGONS.values()]))
Point = tuple[float, float]


def shapes(name: str) -> PuzzleTask:
    """`shapes?digits=2`: ten kinds of figures, as often each."""
    options = read_options(name, {"digits": 2})
    digits = between("shapes", options, "digits", 1, 6)
    return PuzzleTask(name, partial(_draw, digits), _grade, max_new_tokens=8)


# -- internals ---------------------------------------------------------------


def _draw(digits: int, source: random.Random) -> tuple[str, str]:
    name = source.choice(NAMES)
    path = _path(name, digits, source)
    kinds = ", ".join(NAMES)
    question = f'Which shape does this SVG path draw? <path d="{path}"/> It is one of: {kinds}. '
    return question + "Answer with the name only.", name


def _path(name: str, digits: int, source: random.Random) -> str:
    if name in ROUND:
        return _round(name, digits, source)
    corners = _corners(name, source)
    closed = [*corners, corners[0]] if name != "line" else corners
    place = source.uniform(-20, 20), source.uniform(-20, 20)
    points = [_text((x + place[0], y + place[1]), digits) for x, y in closed]
    words = [f"M {points[0]}"]
    for index, point in enumerate(points[1:]):
        if index and source.random() < 0.2:
            words.append(f"M {points[index]}")  # the pen is lifted and set down where it was
        words.append(f"L {point}")
    return " ".join(words)


def _corners(name: str, source: random.Random) -> list[Point]:
    if name == "line":
        return [(0.0, 0.0), (source.uniform(10, 50), source.uniform(10, 50))]
    turn = source.uniform(0, 2 * math.pi)
    a, b = source.uniform(10, 25), source.uniform(28, 50)
    if name == "rectangle":
        return [_turned(p, turn) for p in ((0, 0), (a, 0), (a, b), (0, b))]
    if name == "kite":
        low = source.uniform(1.5, 2.5) * a
        return [_turned(p, turn) for p in ((0, a / 2), (a, 0), (0, -low), (-a, 0))]
    count = next(n for n, known in POLYGONS.items() if known == name)
    angles = [turn + 2 * math.pi * (k + source.uniform(-0.2, 0.2)) / count for k in range(count)]
    return [(b * math.cos(t), b * math.sin(t)) for t in angles]


def _turned(point: Point, turn: float) -> Point:
    x, y = point
    return (
        x * math.cos(turn) - y * math.sin(turn),
        x * math.sin(turn) + y * math.cos(turn),
    )


def _round(name: str, digits: int, source: random.Random) -> str:
    x, y, r = source.uniform(0, 50), source.uniform(0, 50), source.uniform(8, 40)
    arc = f"A {r:.{digits}f},{r:.{digits}f} 0"
    if name == "circle":
        left, right = _text((x - r, y), digits), _text((x + r, y), digits)
        return f"M {left} {arc} 1,1 {right} {arc} 1,1 {left}"
    start, span = source.uniform(0, 2 * math.pi), source.uniform(0.4, 2.6)
    first = x + r * math.cos(start), y + r * math.sin(start)
    last = x + r * math.cos(start + span), y + r * math.sin(start + span)
    middle = _text((x, y), digits)
    edge = f"{_text(first, digits)} {arc} 0,1 {_text(last, digits)}"
    return f"M {middle} L {edge} L {middle}"


def _text(point: Point, digits: int) -> str:
    return f"{point[0]:.{digits}f},{point[1]:.{digits}f}"


def _grade(question: str, gold: str, answer: str) -> bool:
    words: list[str] = re.findall(r"[a-z]+", answer.lower())
    named = [word for word in words if word in NAMES]
    return bool(named) and named[-1] == gold
