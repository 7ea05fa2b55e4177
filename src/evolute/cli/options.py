"""Options that several verbs share, and how they become settings."""

from __future__ import annotations

import dataclasses
import json
import sys
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


def settings(
    cls: type[T], files: list[Path], overrides: list[str] | None, *, print_config: bool = False
) -> T:
    """Settings from TOML files and --set options; --print-config ends the program here."""
    chosen = load(cls, files=files, overrides=overrides or [])
    if print_config:
        print(to_toml(chosen), end="")
        raise typer.Exit
    return chosen


def emit(values: dict[str, Any]) -> None:
    """The machine-readable result, as one line."""
    print(json.dumps(values, default=_plain), flush=True)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def free_port(host: str, port: int) -> int:
    """`port`, or any free one for 0. Raises ConfigError when it is taken."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another --port, "
                "or 0 for any free one."
            ) from error
        return int(probe.getsockname()[1])


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
