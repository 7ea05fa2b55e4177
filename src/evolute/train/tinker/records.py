"""The rows of the service's database.

Times are seconds since the epoch; `number` is the order of arrival. `owner` is
whose key made a row; empty when nobody has keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a future is of."""

    CREATE = "create_model"
    FORWARD = "forward"
    FORWARD_BACKWARD = "forward_backward"
    STEP = "optim_step"
    SAVE = "save_weights"
    SAVE_SAMPLER = "save_weights_for_sampler"
    LOAD = "load_weights"
    UNLOAD = "unload_model"
    SAMPLE = "sample"

    @property
    def is_pass(self) -> bool:
        """Only these may be computed together, and in any order among themselves."""
        return self in (Kind.FORWARD, Kind.FORWARD_BACKWARD)


class Status(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    owner: str
    created_at: float
    seen_at: float
    state: str = "active"  # active, expired, finished
    extra: dict[str, Any] = field(default_factory=dict)  # tags, user_metadata, ...
    number: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A training run. `state` is the number of the state on disk, 0 before the first."""

    id: str
    owner: str
    session_id: str
    base_model: str
    rank: int
    seed: int
    targets: tuple[str, ...]
    created_at: float
    used_at: float
    state: int = 0
    last_seq: int = 0  # of the last request that was done
    barrier_seq: int = -1  # of the last one that others may not overtake
    status: str = "active"  # active, unloaded, failed
    extra: dict[str, Any] = field(default_factory=dict)  # user_metadata, what was asked
    number: int = 0


@dataclass(frozen=True, slots=True)
class Future:
    id: str
    kind: Kind
    owner: str
    session_id: str
    model_id: str | None  # of a sample: of the adapter's model, if it has one
    seq: int | None
    digest: str  # of what was asked, to tell a repetition from another request
    payload: bytes | None  # None once nothing can need it again
    created_at: float
    status: Status = Status.PENDING
    format: str = "json"  # of the payload; proto
    result: bytes | None = None
    error: str | None = None
    category: str = "unknown"
    done_at: float | None = None
    batch: int = 0  # which requests were computed together, in order of time
    attempts: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampling session."""

    id: str
    owner: str
    session_id: str
    base_model: str
    model_path: str | None
    created_at: float
    used_at: float
    model_id: str | None = None
    is_unnamed: bool = False  # its weights go when it is not used
    number: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: str
    owner: str
    model_id: str
    kind: str  # weights, sampler_weights
    name: str
    created_at: float
    num_bytes: int
    expires_at: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # user_metadata, rank, ...
    number: int = 0
