"""What a server may ask of an engine beyond generating, when the engine can do it.

An engine is a `Backend`; each ability below is optional and looked for when it is needed, so
that adapters loaded later are seen and a scripted double is enough for a server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from evolute.types import Backend


@runtime_checkable
class HasAdapters(Protocol):
    def adapters(self) -> Iterable[str]: ...


@runtime_checkable
class HasStats(Protocol):
    def stats(self) -> Any: ...


def adapter_names(engine: Backend) -> list[str]:
    """Names of the adapters that are loaded now, in the engine's order."""
    return [str(name) for name in engine.adapters()] if isinstance(engine, HasAdapters) else []


def context_of(engine: Backend) -> int | None:
    """Tokens that prompt and output may have together, or None when the engine does not say."""
    holder = getattr(engine, "config", engine)
    context = getattr(holder, "context", None)
    return context if isinstance(context, int) else None


def is_alive(engine: Backend) -> bool:
    """False only when the engine says that it has stopped working."""
    alive = getattr(engine, "is_alive", True)
    return bool(alive() if callable(alive) else alive)


def busy_s(engine: Backend) -> float:
    """How long the engine has had work and completed no step; 0 when it waits or does not say."""
    return float(getattr(getattr(engine, "heartbeat", None), "busy_s", 0.0))


def complaint(engine: Backend) -> str:
    """What an operator should know of an engine that answers; empty when all is well."""
    return str(getattr(engine, "complaint", ""))


def stats(engine: Backend) -> dict[str, Any]:
    """The engine's own figures as plain values; empty when it has none."""
    found = engine.stats() if isinstance(engine, HasStats) else {}
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return dataclasses.asdict(found)
    return dict(found) if isinstance(found, Mapping) else {}
