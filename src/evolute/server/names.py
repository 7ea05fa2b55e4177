"""Which model a request means: the base, or one of the adapters on it.

    await names.resolve("default" | base | adapter | "base:adapter") -> adapter or None
    await names.listing()                    the cards of GET /v1/models

An engine answers which adapters it has between two of its steps, so that is asked in a thread
and only when the name is not the base's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from evolute.server import admin
from evolute.server.errors import FieldError
from evolute.types import Backend
from evolute.types.settings import nearest

DEFAULT = "default"


class ModelNames:
    """The names under which one engine answers. The first served name is the base's own.

    A base's name wins over an adapter of the same name, which stays reachable as base:adapter.
    """

    def __init__(self, engine: Backend, served: Sequence[str]) -> None:
        self._engine = engine
        self._created = int(time.time())
        self.served = tuple(served) or (engine.model_name,)

    async def resolve(self, name: str) -> str | None:
        """The adapter meant by `name`, None for the base. Raises FieldError 404."""
        if name == DEFAULT or name in self.served:
            return None
        adapters = await self._adapters()
        if name in adapters:
            return name
        for base in (DEFAULT, *self.served):
            adapter = name.removeprefix(f"{base}:")
            if adapter != name and adapter in adapters:
                return adapter
        known = [DEFAULT, *self.served, *adapters]
        text = f"model {name!r} is not served here. {nearest(name, known)}"
        raise FieldError(text, param="model", code="model_not_found", status=404)

    def shown(self, name: str) -> str:
        """The name that a response carries."""
        return self.served[0] if name == DEFAULT else name

    async def listing(self) -> list[dict[str, Any]]:
        base = self.served[0]
        cards = [self._card(name, root=base, parent=None) for name in self.served]
        for adapter in await self._adapters():
            cards.append(self._card(adapter, root=adapter, parent=base))
            cards.append(self._card(f"{base}:{adapter}", root=adapter, parent=base))
        return cards

    async def card(self, name: str) -> dict[str, Any]:
        """One entry of the listing; 'default' is the base. Raises FieldError 404."""
        adapter = await self.resolve(name)
        root = self.served[0] if adapter is None else adapter
        return self._card(self.shown(name), root=root, parent=adapter and self.served[0])

    async def _adapters(self) -> list[str]:
        return await asyncio.to_thread(admin.adapter_names, self._engine)

    def _card(self, name: str, *, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "evolute",
            "root": root,
            "parent": parent,
            "max_model_len": admin.context_of(self._engine),
        }
