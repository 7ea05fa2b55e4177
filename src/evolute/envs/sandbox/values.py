"""A Python value as canonical text, and back: what programs return, compared without running them.

    encode(value) -> str       equal values of equal types give equal texts
    decode(text) -> value      raises ValueError for what `encode` does not write

Standard library only: this file is put into sandboxes too. JSON holds what JSON has; all else is an
object with one key, the type: {"tuple": [...]}, {"set": [...]}, {"dict": [[key, value], ...]},
{"float": "nan"}, {"bytes": "00ff"}, {"complex": [re, im]}, {"other": [type, repr]}.
Sets and dicts are in the order of their texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Other:
    """A value of a type that has no canonical text: known by its type and representation."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Other) and (self.kind, self.text) == (other.kind, other.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.text))

    def __repr__(self) -> str:
        return self.text


def encode(value: Any) -> str:
    """Canonical JSON. Raises ValueError for values that are too deep, or contain themselves."""
    return _dump(_plain(value, 0))


def decode(text: str) -> Any:
    """The value of a canonical text."""
    return _value(json.loads(text))


def _dump(plain: Any) -> str:
    return json.dumps(plain, ensure_ascii=True, separators=(",", ":"))


def _plain(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"a value deeper than {MAX_DEPTH} levels, or one that contains itself")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if abs(value) < 10**4000 else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [_plain(item, depth + 1) for item in value]
    if kind is tuple:
        return {"tuple": [_plain(item, depth + 1) for item in value]}
    if kind is set or kind is frozenset:
        return {kind.__name__: sorted((_plain(item, depth + 1) for item in value), key=_dump)}
    if kind is dict:
        pairs = [[_plain(key, depth + 1), _plain(item, depth + 1)] for key, item in value.items()]
        return {"dict": sorted(pairs, key=_dump)}
    if kind is bytes or kind is bytearray:
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [_plain(value.real, depth + 1), _plain(value.imag, depth + 1)]}
    if isinstance(value, Other):
        return {"other": [value.kind, value.text]}
    return _of_subclass(value, kind, depth)


def _of_subclass(value: Any, kind: type, depth: int) -> Any:
    """Counters, named tuples, enums of numbers: what they are to a test. The rest is shown."""
    if isinstance(value, int):
        return _plain(int.__index__(value), depth)
    makers: tuple[Any, ...] = (float, str, bytes, list, tuple, set, frozenset, dict)
    for maker in makers:
        if isinstance(value, maker):
            return _plain(maker(value), depth)
    return {"other": [kind.__name__, ADDRESS.sub("", repr(value))]}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) != 1:
        raise ValueError("no canonical text: an object with several keys")
    ((kind, held),) = plain.items()
    if kind == "dict":
        return {_value(key): _value(item) for key, item in held}
    makers: dict[str, Callable[[], Any]] = {
        "tuple": lambda: tuple(map(_value, held)),
        "set": lambda: set(map(_value, held)),
        "frozenset": lambda: frozenset(map(_value, held)),
        "int": lambda: int(held, 16),
        "float": lambda: float(held),
        "bytes": lambda: bytes.fromhex(held),
        "bytearray": lambda: bytearray.fromhex(held),
        "complex": lambda: complex(*map(_value, held)),
        "other": lambda: Other(*held),
    }
    if kind not in makers:
        raise ValueError(f"no canonical text: {kind!r} is no type of it")
    return makers[kind]()
