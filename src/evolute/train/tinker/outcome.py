"""What came of a request, before it is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evolute.train.tinker.records import Checkpoint, Sampler


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it is noted in one transaction; `afterwards` is done when that has held."""

    result: bytes = b""
    error: Exception | None = None  # it failed, and the model changed all the same
    batch: int = 0  # above 0: it is done again when the model comes back from its last state
    state: int = 0  # above 0: the number of a new state on disk, which needs no request before it
    changes: dict[str, Any] = field(default_factory=dict)  # columns of the model's row
    records: tuple[Checkpoint | Sampler, ...] = ()
    afterwards: tuple[Callable[[], None], ...] = ()
