"""What is dispatched, and how did it end?

Lifecycle        start (INIT) -> act (RUN) -> grade (EVAL), and close on every path
Ending           done with a value, failed in a stage, or cancelled; with the times of each stage
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Stage(StrEnum):
    """In order. LIVE is what spans them all."""

    LIVE = "live"
    INIT = "init"
    RUN = "run"
    EVAL = "eval"


class End(StrEnum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Lifecycle(Protocol[T_co]):
    """One trajectory. After a failed start `close` is called, then `start` again from nothing;
    a failed `grade` is called again as it stands. `close` may come at any time after the first
    `start` has begun, and is called once for each `start`."""

    async def start(self) -> None: ...
    async def act(self) -> None: ...
    async def grade(self) -> T_co: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Times:
    """Seconds on the loop's clock."""

    wait_s: float = 0.0  # until the stage began
    service_s: float = 0.0  # within it, retries included
    handover_s: float = 0.0  # held up after it, as the queue behind it was full


@dataclass(slots=True)
class Ending(Generic[T]):
    """`value` is `grade`'s when DONE; `error` what was raised, in `stage`, when FAILED."""

    end: End
    value: T | None = None
    error: BaseException | None = None
    stage: Stage | None = None
    attempts: int = 0  # starts and gradings beyond the first
    seconds: float = 0.0  # from submission to the end
    times: dict[Stage, Times] = field(default_factory=dict)
