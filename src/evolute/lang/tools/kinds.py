"""Which JSON does a Python type take? A type as a schema, and a JSON value as a value of the type.

kind_of(hint) -> Kind                    raises NoKind for a type that JSON cannot say
kind.schema() -> dict                    JSON schema
kind.read(value) -> value                raises WrongValue: the path, and what was wanted
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Union

from evolute.types import ConfigError

PLAIN: dict[type, tuple[str, str]] = {  # type -> JSON's name, ours in messages
    str: ("string", "a text"),
    bool: ("boolean", "true or false"),
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
    type(None): ("null", "null"),
}
MAX_SHOWN_CHARS = 60


class NoKind(ConfigError):
    """A type that a tool cannot take."""


class WrongValue(ValueError):
    """The path within the value and what is wrong there, as in `[2].name must be a text, not 3`."""


class Kind(Protocol):
    """One type, both ways."""

    def schema(self) -> dict[str, Any]: ...
    def read(self, value: Any) -> Any: ...


def kind_of(hint: Any) -> Kind:
    """Raises NoKind, which says what there is."""
    return _kind(hint, ())


@dataclasses.dataclass(frozen=True, slots=True)
class _Plain:
    type: type

    def schema(self) -> dict[str, Any]:
        return {"type": PLAIN[self.type][0]}

    def read(self, value: Any) -> Any:
        if self.type is float and type(value) is int:
            return float(value)
        if self.type is int and type(value) is float and value.is_integer():
            return int(value)  # JSON does not tell 3.0 from 3
        if type(value) is not self.type:
            raise WrongValue(f" must be {PLAIN[self.type][1]}, not {_shown(value)}")
        return value


class _Anything:
    def schema(self) -> dict[str, Any]:
        return {}

    def read(self, value: Any) -> Any:
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class _OneOf:
    values: tuple[Any, ...]

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def read(self, value: Any) -> Any:
        for own in self.values:
            if type(own) is type(value) and own == value:
                return own
        names = ", ".join(map(repr, self.values))
        raise WrongValue(f" must be one of {names}, not {_shown(value)}")


@dataclasses.dataclass(frozen=True, slots=True)
class _List:
    item: Kind

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}

    def read(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise WrongValue(f" must be a list, not {_shown(value)}")
        return [_at(f"[{i}]", self.item, one) for i, one in enumerate(value)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Map:
    item: Kind

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.schema()}

    def read(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise WrongValue(f" must be an object, not {_shown(value)}")
        return {key: _at(f".{key}", self.item, one) for key, one in value.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Either:
    kinds: tuple[Kind, ...]

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}

    def read(self, value: Any) -> Any:
        complaints = []
        for kind in self.kinds:
            try:
                return kind.read(value)
            except WrongValue as error:
                complaints.append(str(error))
        raise WrongValue(" or".join(complaints))


@dataclasses.dataclass(frozen=True, slots=True)
class _Record:
    type: type
    kinds: Mapping[str, Kind]
    required: frozenset[str]

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: kind.schema() for name, kind in self.kinds.items()},
            "required": [name for name in self.kinds if name in self.required],
            "additionalProperties": False,
        }

    def read(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise WrongValue(f" must be an object, not {_shown(value)}")
        for name in value:
            if name not in self.kinds:
                raise WrongValue(f" has no {name!r}; it has {', '.join(self.kinds)}")
        for name in self.kinds:
            if name in self.required and name not in value:
                raise WrongValue(f".{name} is missing")
        read = {name: _at(f".{name}", self.kinds[name], one) for name, one in value.items()}
        try:
            return self.type(**read)
        except (TypeError, ValueError) as error:  # its own checks
            raise WrongValue(f" cannot be: {error}") from error


# -- internals ---------------------------------------------------------------


def _kind(hint: Any, within: tuple[type, ...]) -> Kind:
    """`within`: the records around it; one that holds itself has no end."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kind(inner[0], within)
    if hint is None or hint in PLAIN:
        return _Plain(type(None) if hint is None else hint)
    if hint is Any:
        return _Anything()
    if origin is Literal:
        if not all(type(value) in PLAIN for value in inner):
            raise NoKind(f"{hint} holds more than texts, numbers, truth values and None")
        return _OneOf(inner)
    if origin in (Union, types.UnionType):
        return _Either(tuple(_kind(one, within) for one in inner))
    if (origin or hint) is list:
        return _List(_kind(inner[0], within) if inner else _Anything())
    if (origin or hint) is dict:
        if inner and inner[0] is not str:
            raise NoKind(f"{hint} has keys that are no texts, as JSON's are")
        return _Map(_kind(inner[1], within) if inner else _Anything())
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record(hint, within)
    raise NoKind(
        f"type {getattr(hint, '__name__', hint)} is not known here; use str, int, float, bool, "
        "Literal, list, dict, Optional or a dataclass."
    )


def _record(hint: type, within: tuple[type, ...]) -> _Record:
    if hint in within:
        raise NoKind(f"{hint.__name__} holds itself, which a tool cannot take")
    hints = typing.get_type_hints(hint, include_extras=True)
    fields = [field for field in dataclasses.fields(hint) if field.init]
    kinds = {field.name: _kind(hints[field.name], (*within, hint)) for field in fields}
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return _Record(hint, kinds, frozenset(required))


def _at(where: str, kind: Kind, value: Any) -> Any:
    try:
        return kind.read(value)
    except WrongValue as error:
        raise WrongValue(f"{where}{error}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
