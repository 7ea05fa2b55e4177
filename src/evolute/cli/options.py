"""Options that several verbs share, and how they become settings."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from evolute.types import ConfigError
from evolute.types.settings import load, to_toml

T = TypeVar("T")

Model = Annotated[str, typer.Option(help="smollm2-135m, tiny, a .gguf file or a directory")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object as the last line of stdout")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="one setting, as key.path=value; repeatable")
]
PrintConfig = Annotated[bool, typer.Option(help="show the settings in force and stop")]

Track = Annotated[
    list[str] | None,
    typer.Option(help="send figures to tensorboard, wandb or mlflow as well; repeatable"),
]


def words_of(recipe: Path) -> list[str]:
    """A TOML file as --set options, in its order. Raises ConfigError when it cannot be read."""
    try:
        found = tomllib.loads(recipe.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"recipe {recipe} cannot be read: {error}") from error
    return [f"{key}={_text(value)}" for key, value in _flat(found, "")]


def settings(
    cls: type[T], files: list[Path], overrides: list[str] | None, *, print_config: bool = False
) -> T:
    """Settings from TOML files and --set options; --print-config ends the program here."""
    chosen = load(cls, files=files, overrides=overrides or [])
    if print_config:
        print(to_toml(chosen), end="")
        raise typer.Exit
    return chosen


def overrides(words: list[str], section: str) -> list[str]:
    """`--key value` and `--key=value` after a verb as `key=value`; `--section.key` is the same."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        key, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key or not (separator or rest):
            raise ConfigError(f"{word!r} is no setting with a value; write --key.path value.")
        found.append(f"{key.removeprefix(section + '.')}={value if separator else rest.pop(0)}")
    return found


def as_options(values: Mapping[str, Any], section: str = "") -> str:
    """The words that set `values` on a command line."""
    words = []
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(f"--set {section}{name}={text}")
    return " ".join(words)


def emit(values: dict[str, Any]) -> None:
    """The machine-readable result, as one line. JSON has no infinity and no NaN: null."""
    plain = json.loads(json.dumps(values, default=_plain), parse_constant=lambda _: None)
    print(json.dumps(plain, allow_nan=False), flush=True)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def _flat(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
