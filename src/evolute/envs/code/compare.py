"""Is what a program gave what it should have given?

same(expected, actual)               values: tuple and list alike, floats within 1e-6, NaN is NaN
same_output(expected, actual)        printed text: token by token, numbers within 1e-6
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Number
from typing import Any

TOLERANCE = 1e-6  # relative, and absolute near zero


def same(expected: Any, actual: Any) -> bool:
    """Deep equality of decoded values. Sets and dicts have no order; True is 1, as in Python."""
    if isinstance(expected, int) and isinstance(actual, int):
        return expected == actual
    if isinstance(expected, Number) and isinstance(actual, Number):
        return _near(expected, actual)
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple) or len(expected) != len(actual):
            return False
        return all(same(one, other) for one, other in zip(expected, actual))
    if isinstance(expected, set | frozenset):
        return isinstance(actual, set | frozenset) and _same_items(expected, actual)
    if isinstance(expected, dict):
        return isinstance(actual, dict) and _same_items(expected.items(), actual.items())
    return type(expected) is type(actual) and bool(expected == actual)


def same_output(expected: str, actual: str) -> bool:
    """Blanks at the ends of lines and empty lines at the end do not count."""
    wanted, got = _lines(expected), _lines(actual)
    if len(wanted) != len(got):
        return False
    return all(_same_line(one, other) for one, other in zip(wanted, got))


# -- internals ---------------------------------------------------------------


def _near(expected: Any, actual: Any) -> bool:
    try:
        one, other = complex(expected), complex(actual)
    except OverflowError:  # an integer that no float holds
        return bool(expected == actual)
    return _close(one.real, other.real) and _close(one.imag, other.imag)


def _close(expected: float, actual: float) -> bool:
    if math.isnan(expected) or math.isnan(actual):
        return math.isnan(expected) and math.isnan(actual)
    return math.isclose(expected, actual, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _same_items(expected: Collection[Any], actual: Collection[Any]) -> bool:
    """Each item of one with an item of the other of its own."""
    if len(expected) != len(actual):
        return False
    left = list(actual)
    for item in expected:
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(expected: str, actual: str) -> bool:
    if expected == actual:
        return True
    wanted, got = expected.split(), actual.split()
    return len(wanted) == len(got) and all(_same_token(*pair) for pair in zip(wanted, got))


def _same_token(expected: str, actual: str) -> bool:
    if expected == actual:
        return True
    try:
        return _close(float(expected), float(actual))
    except ValueError:
        return False
