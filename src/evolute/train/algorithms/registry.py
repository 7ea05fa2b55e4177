"""Which functions of a kind are there? Entries by name; an unknown one is told the nearest.

RULES = Registry("advantage rule")
RULES.add("grpo", entry)     a name is given once
RULES["grpo"]                raises ConfigError for an unknown one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from evolute.types import ConfigError
from evolute.types.settings import nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names of one kind of thing, in the order they were added."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Give `entry` a name. Raises ConfigError when the name is taken."""
        if name in self._entries:
            raise ConfigError(f"{self._what} {name!r} exists already; choose another name.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise ConfigError(f"no {self._what} {name!r}. {nearest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
