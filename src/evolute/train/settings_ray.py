"""Settings of where a run computes: ways of weights, actors of Ray and their places.

What cannot be honoured together is refused in `effective_ray.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["publish", "shared_memory", "broadcast", "delta"]
Routing = Literal["sticky", "least_loaded", "cache_aware", "d2lpm", "round_robin"]
Nodes = Literal["pack", "spread", "strict_pack", "strict_spread"]


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """How new weights come to the engines; each way is proved by digest and canary.

    publish: handed over (in process a copy, on Ray its object store); shared_memory: a mapped file,
    one machine; broadcast: torch.distributed, other processes only; delta: what changed, by files.
    """

    way: Way = "publish"
    folder: str = ""  # shared_memory: default /dev/shm; delta: the run's, all nodes must see it
    base_every: int = 16  # delta: versions from one whole snapshot to the next
    timeout_s: float = 120.0  # who has not proved the weights by then has not got them


@dataclass(frozen=True, slots=True)
class RayConfig:
    """Engines, trainers and episodes as Ray actors; with both counts at 0 nothing is on Ray."""

    engines: int = 0  # replicas of the engine behind a router
    trainers: int = 0  # ranks of the trainer group, data parallel
    workers: int = 0  # processes that play episodes; 0: this one
    address: str = ""  # of a Ray cluster; empty: one of our own on this machine
    placement: Literal["apart", "colocated"] = "apart"  # colocated: engine i beside trainer i
    nodes: Nodes = "pack"  # how actors are laid over machines; strict: or not at all
    # replicated: each rank holds all weights; sharded: a part of each (FSDP2)
    parallel: Literal["replicated", "sharded"] = "replicated"
    routing: Routing = "sticky"  # which engine gets a request
    stickiness: int = 8  # sticky: requests its engine may be ahead by before a session moves
    engine_cpus: int = 1  # threads of an engine
    trainer_cpus: int = 1  # threads of a rank
    engine_gpus: float = 0.0  # of one engine; 0: it computes on CPUs
    engine_memory_mb: int = 1024  # of keys and values in each engine
    start_timeout_s: float = 300.0  # for all actors to come up
    collective_timeout_s: float = 600.0  # one rank waits for another; then the step has failed
    requeues: int = 3  # of an episode whose worker died, on another worker

    @property
    def is_on(self) -> bool:
        return self.engines > 0 or self.trainers > 0
