"""The names of other packages' worlds: PREFIX:WORLD?option=value&...

read_name("skyrl-gym:gsm8k?data=rows.jsonl", PREFIX, defaults) -> (world, options)
module_of("skyrl_gym", "skyrl-gym")      the package, or a ConfigError that says how to get it
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

from evolute.types import ConfigError
from evolute.types.settings import nearest

Defaults = Mapping[str, str | int]


def read_name(name: str, prefix: str, defaults: Defaults) -> tuple[str, dict[str, Any]]:
    """The world behind the prefix, and its options over the defaults, which give their types.

    Raises ConfigError for no world, an unknown option, one given twice, or no number.
    """
    world, _, text = name.removeprefix(prefix).partition("?")
    if not world:
        raise ConfigError(f"{name!r} names no world; write {prefix}WORLD.")
    found: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in defaults:
            raise ConfigError(f"{prefix}{world} has no option {key!r}. {nearest(key, defaults)}")
        if key in found:
            raise ConfigError(f"option {key!r} of {prefix}{world} is given twice; keep one.")
        if isinstance(defaults[key], int):
            if not value.isdigit() or int(value) < 1:
                raise ConfigError(
                    f"option {key!r} of {prefix}{world} is {value!r}; it must be a whole number "
                    "from 1 on."
                )
            found[key] = int(value)
        else:
            found[key] = value
    return world, {**defaults, **found}


def module_of(module: str, package: str, extra: str = "") -> Any:
    """Raises ConfigError when the package is not installed, or cannot be loaded here."""
    try:
        return import_module(module)
    except ImportError as error:
        why = f"; {error}" if not isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(
            f"these worlds need the package {package}, which is not installed here{why}: "
            f"pip install {package}{extra}"
        ) from error
