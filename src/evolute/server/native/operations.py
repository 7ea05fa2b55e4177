"""What the native paths share: the engine's abilities, and what the server knows beyond them.

operations.call("pause")              an ability of the engine, in a thread; 501 without it
operations.version_label(version)     the name that an update gave to the weights
operations.journal                    what was changed, for a process that takes this one's place
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from evolute.server.journal import Journal
from evolute.server.names import ModelNames
from evolute.types import Backend, NotSupported

FIRST_LABEL = "default"  # SGLang's word for the weights that were there at the start


class Operations:
    """One engine under operation. Everything that changes weights holds `updating`."""

    def __init__(self, engine: Backend, names: ModelNames, journal: Journal | None = None) -> None:
        self.engine, self.names = engine, names
        self.journal = journal or Journal()
        self.updating = asyncio.Lock()
        self._labels: dict[int, str] = {0: FIRST_LABEL}
        if restored := self.journal.weights.get("label"):
            self._labels[1] = restored

    async def call(self, ability: str, /, *args: Any, **settings: Any) -> Any:
        """Raises NotSupported when the engine has no such ability."""
        method = self.ability(ability)
        return await asyncio.to_thread(method, *args, **settings)

    def ability(self, name: str) -> Callable[..., Any]:
        method = getattr(self.engine, name, None)
        if not callable(method):
            raise NotSupported(f"the engine behind this server cannot {name.replace('_', ' ')}.")
        found: Callable[..., Any] = method
        return found

    def known(self, name: str, default: Any = None) -> Any:
        """A plain attribute of the engine, where it has it."""
        return getattr(self.engine, name, default)

    def label(self, version: int, name: str | None) -> str:
        """Name the base weights of `version`."""
        return self._labels.setdefault(version, name or str(version))

    def version_label(self, version: int, adapter: str | None = None) -> str:
        """An adapter's versions are numbers of its own."""
        return str(version) if adapter else self._labels.get(version, str(version))

    async def version(self) -> int:
        """Of the base weights that the engine computes with."""
        if not callable(getattr(self.engine, "stats", None)):
            return 0
        stats = await self.call("stats")
        return int(getattr(stats, "weight_version", 0))
