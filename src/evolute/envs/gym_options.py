"""Options of a reasoning-gym family, written behind its name.

    reasoning-gym:chain_sum?min_terms=2&max_terms=2
    reasoning-gym:word_sorting?max_new_tokens=64          ours: how long an answer may be
    reasoning-gym:gcd?answer=whole                        ours: what of the text is judged

parse_name(name) -> GymName              raises ConfigError for an unknown family or option
make_dataset(name, seed, size)           the package's own object
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from evolute.types import ConfigError
from evolute.types.settings import nearest

PREFIX = "reasoning-gym:"
MAX_NEW_TOKENS = 24
OURS = {"max_new_tokens": int, "answer": str}
ANSWERS = ("auto", "number", "whole")  # auto: the last number where the right answer is one
DRAWN = ("seed", "size")  # ours to choose: they decide which problems there are


@dataclass(frozen=True, slots=True)
class GymName:
    """A task's name in parts. `options` is the text behind the question mark."""

    family: str
    options: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    answer: str = "auto"


def parse_name(name: str) -> GymName:
    """Split and check `reasoning-gym:FAMILY?option=value&...`."""
    from reasoning_gym.factory import DATASETS

    family, _, options = name.removeprefix(PREFIX).partition("?")
    if family not in DATASETS:
        raise ConfigError(f"reasoning-gym has no family {family!r}. {nearest(family, DATASETS)}")
    parsed = GymName(family, options)
    values = _values(parsed)
    length, answer = values.get("max_new_tokens", MAX_NEW_TOKENS), values.get("answer", "auto")
    if length < 1:
        raise ConfigError(f"max_new_tokens of {name!r} is {length}; it must be at least 1.")
    if answer not in ANSWERS:
        raise ConfigError(f"answer of {name!r} is {answer!r}; it is one of {', '.join(ANSWERS)}.")
    make_dataset(parsed, 0, 1)
    return GymName(family, options, length, answer)


def make_dataset(name: GymName, seed: int, size: int) -> Any:
    """Problems seed, seed + 1, ... of the family: neighbouring seeds overlap. Raises ConfigError
    when the family refuses its options."""
    import reasoning_gym

    own = {key: value for key, value in _values(name).items() if key not in OURS}
    try:
        return reasoning_gym.create_dataset(name.family, seed=seed, size=size, **own)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"reasoning-gym:{name.family} refuses its options {own}: {error}. "
            f"Options: {', '.join(_hints(name.family))}."
        ) from error


# -- internals ---------------------------------------------------------------


def _values(name: GymName) -> dict[str, Any]:
    hints = _hints(name.family)
    try:
        pairs = parse_qsl(name.options, keep_blank_values=True, strict_parsing=bool(name.options))
    except ValueError as error:
        raise ConfigError(
            f"options {name.options!r} cannot be read ({error}); write option=value&option=value."
        ) from error
    values: dict[str, Any] = {}
    for key, text in pairs:
        if key not in hints:
            raise ConfigError(
                f"family {name.family!r} has no option {key!r}. Options: {', '.join(hints)}."
            )
        if key in values:
            raise ConfigError(f"option {key!r} of family {name.family!r} is given twice.")
        values[key] = _convert(text, hints[key], f"option {key} of family {name.family!r}")
    return values


@lru_cache
def _hints(family: str) -> dict[str, Any]:
    """Type of every option, by name."""
    from reasoning_gym.factory import DATASETS

    config = DATASETS[family][1]
    known = [field.name for field in dataclasses.fields(config) if field.init]
    hints = typing.get_type_hints(config)
    own = {name: hints[name] for name in sorted(known) if name not in DRAWN}
    return own | OURS


def _convert(text: str, hint: Any, what: str) -> Any:
    """JSON where it is JSON, else the text itself; a list becomes a tuple where one is wanted."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _convert(text, typing.get_args(hint)[0], what)
    wanted = origin if isinstance(origin, type) else hint
    try:
        value = text if wanted is str else json.loads(text)
    except ValueError:
        value = text
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted in (bool, int, float, list, tuple) and type(value) is not wanted:
        raise ConfigError(f"{what} is {text!r}; it must be of type {wanted.__name__}.")
    return value
