"""All actors of one run, brought up and taken down.

    with RayRun(config, run_dir) as ray:
        ray.engines, ray.players, ray.crew       what a `Controller` is given

Order: connect, reserve every place, engines, trainer ranks, workers; and back.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from evolute.engine import EngineConfig
from evolute.engine.replicas import ReplicaConfig
from evolute.engine.replicas.cluster import Cluster
from evolute.train.ray.engines import RolloutEngines
from evolute.train.ray.group import TrainerGroup
from evolute.train.ray.placement import Reserved, layout, reserve
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError, Player

logger = logging.getLogger(__name__)


class RayRun:
    """Raises ConfigError when Ray, the places or an actor cannot be had."""

    def __init__(self, config: TrainConfig, run_dir: Path) -> None:
        if not config.ray.is_on:
            raise ConfigError("ray.engines and ray.trainers are 0: nothing of this run is on Ray.")
        self.config, self.run_dir = config, run_dir.absolute()
        self.players: list[Player] = []
        self._exit = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every actor. Idempotent."""
        self._exit.close()

    # -- internals ---------------------------------------------------------------

    def _start(self) -> None:
        ray = self.config.ray
        wanted = layout(ray)
        self.cluster = Cluster(ray.address or None, wanted.cpus, "actors of a training run")
        self._exit.callback(self.cluster.close)
        reserved = reserve(self.cluster, wanted, ray.start_timeout_s)
        self._exit.callback(reserved.free)
        self.engines = self._engines(reserved)
        self._exit.callback(self.engines.close)
        self.crew = TrainerGroup(self.cluster, reserved, self.config, self.run_dir, self.engines)
        self._exit.callback(self.crew.close)
        self._check_nodes()

    def _engines(self, reserved: Reserved) -> RolloutEngines:
        ray = self.config.ray
        engine = EngineConfig(
            page_size=4,
            num_threads=ray.engine_cpus,
            memory_mb=ray.engine_memory_mb,
            device="cuda" if ray.engine_gpus else "cpu",
            tensor_parallel=max(int(ray.engine_gpus), 1),
        )
        replicas = ReplicaConfig(ray.engines, ray.routing, stickiness=ray.stickiness)
        return RolloutEngines(
            self.config.model,
            engine,
            replicas,
            self.cluster,
            lambda index: reserved.options("engine", index),
            ray.start_timeout_s,
        )

    def _check_nodes(self) -> None:
        """Ways that go through one machine's memory need one machine."""
        nodes = {facts.node for facts in self.crew.facts} | self.engines.nodes()
        if self.config.sync.way == "shared_memory" and len(nodes) > 1:
            raise ConfigError(
                f"sync.way is 'shared_memory', but the actors are on {len(nodes)} machines "
                f"({', '.join(sorted(nodes))}); set sync.way = 'publish', 'broadcast' or 'delta', "
                "or ray.nodes = 'strict_pack'."
            )
