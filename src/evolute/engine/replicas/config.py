"""How many replicas, where, and which of them gets a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from evolute.types import ConfigError

RoutingName = Literal["d2lpm", "cache_aware", "least_loaded", "round_robin", "sticky"]
ROUTING_NAMES: tuple[str, ...] = get_args(RoutingName)
QUANTUM = 4096


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Engines with the same settings, each in a process of its own."""

    count: int = 2
    routing: RoutingName = "d2lpm"
    quantum: int = QUANTUM  # of d2lpm: service of a tenant one replica may get ahead of another
    stickiness: int = 8  # of sticky: requests its replica may be ahead by before a session moves
    address: str | None = None  # of a Ray cluster; None: one of our own on this machine

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"replicas is {self.count}; it must be at least 1.")
        if self.routing not in ROUTING_NAMES:
            known = ", ".join(ROUTING_NAMES)
            raise ConfigError(f"routing {self.routing!r} is not known; use one of {known}.")
        if self.stickiness < 0:
            raise ConfigError(f"stickiness is {self.stickiness}; it must be at least 0.")
        if self.quantum < 1:
            raise ConfigError(f"the quantum of routing is {self.quantum}; it must be at least 1.")
