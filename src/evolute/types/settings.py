"""Settings from dataclasses, TOML files and dotted overrides.

    load(cls, files=[...], overrides=["engine.page_size=16"]) -> an instance of cls
    to_toml(instance) -> str                                   what --print-config shows

Unknown keys fail with the nearest known name; values are converted to the field's type or
refused. Nested settings are nested dataclasses; dashes in keys count as underscores.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from evolute.types.errors import ConfigError

T = TypeVar("T")


def load(cls: type[T], *, files: Iterable[str | Path] = (), overrides: Iterable[str] = ()) -> T:
    """Read `files` in order, then `key=value` overrides; later ones win."""
    values: dict[str, Any] = {}
    for file in files:
        _merge(values, _read_toml(Path(file)))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} has no '='; write key.path=value.")
        _merge(values, _nest(key.strip(), text.strip()))
    return from_mapping(cls, values)


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Build `cls` from a nested mapping. Raises ConfigError naming the dotted key."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls)) if field.init]
    kwargs = {}
    for raw, value in values.items():
        name = raw.replace("-", "_")
        if name not in names:
            raise ConfigError(_unknown(path + raw, names, path))
        kwargs[name] = _convert(hints[name], value, path + name)
    try:
        return cls(**kwargs)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings {path or cls.__name__}: {error}") from error


def keys(cls: type, path: str = "") -> list[str]:
    """Every dotted key of `cls`, in order."""
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found += keys(typing.cast(type, hint), f"{path}{name}.")
        else:
            found.append(path + name)
    return found


def to_mapping(settings: Any) -> dict[str, Any]:
    """Nested plain values; None is left out, as TOML has no null."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            plain[field.name] = to_mapping(value)
        elif value is not None:
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def to_toml(settings: Any) -> str:
    """TOML text which `load` reads back to an equal instance."""
    return "\n".join(_toml_lines(to_mapping(settings), "")).strip() + "\n"


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' or the list of known names, for an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


# -- internals ---------------------------------------------------------------


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"settings file {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {path} is not valid TOML: {error}") from error


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for raw, value in new.items():
        key = raw.replace("-", "_")
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def _unknown(key: str, names: list[str], path: str) -> str:
    return f"no setting {key!r}. {nearest(key.removeprefix(path), names)}"


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is a section; set one of its keys, e.g. {key}.{_first(hint)}")
        return from_mapping(typing.cast(type, hint), value, key + ".")
    if origin in (types.UnionType, typing.Union):
        return _convert_optional(typing.get_args(hint), value, key)
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, key)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{key} is {value!r}. {nearest(str(value), map(str, allowed))}")
        return value
    return _convert_scalar(hint, value, key)


def _first(hint: Any) -> str:
    return dataclasses.fields(hint)[0].name


def _convert_optional(hints: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None or value in ("none", "None"):
        return None
    (inner,) = [hint for hint in hints if hint is not type(None)]
    return _convert(inner, value, key)


def _convert_tuple(hints: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else [v for v in text.split(",") if v]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} is {value!r}; it must be a list.")
    return tuple(_convert(hints[0], item, f"{key}[{i}]") for i, item in enumerate(value))


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    wanted = f"{key} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}."
    if hint is bool:
        text = str(value).lower()
        if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(wanted)
        return text in ("true", "1", "yes", "on")
    if isinstance(value, bool | list | dict):
        raise ConfigError(wanted)
    try:
        return hint(value) if hint in (int, float, str) else value
    except ValueError:
        raise ConfigError(wanted) from None


def _toml_lines(values: Mapping[str, Any], path: str) -> list[str]:
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{path}{key}]", *_toml_lines(value, f"{path}{key}.")]
    return lines
