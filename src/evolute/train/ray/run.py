"""All actors of one run, brought up and taken down.

    with RayRun(config, run_dir) as ray:
        ray.engines, ray.players, ray.crew       what a `Controller` is given

Order: connect, reserve every place, engines, trainer ranks, workers; and back.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

from evolute.engine import EngineConfig
from evolute.engine.replicas import ReplicaConfig
from evolute.engine.replicas.cluster import Cluster
from evolute.train.control.playing import num_places
from evolute.train.ray.engines import RolloutEngines
from evolute.train.ray.group import TrainerGroup
from evolute.train.ray.placement import Reserved, layout, reserve
from evolute.train.ray.worker import EpisodeWorker
from evolute.train.ray.workers import RayWorker, Workers
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
        options = partial(reserved.options, "trainer")
        self.crew = TrainerGroup(self.cluster, options, self.config, self.run_dir, self.engines)
        self._exit.callback(self.crew.close)
        self._check_nodes()
        if ray.workers and not self.config.replay:
            self.players = [self._workers(reserved)]

    def _workers(self, reserved: Reserved) -> Workers:
        config, ray = self.config, self.config.ray
        adapter = "policy" if config.method == "lora" else None
        places = num_places(self.engines)
        args = (config, adapter, max(1, places // ray.workers))

        def start(index: int) -> Any:
            options = reserved.options("worker", index)
            return self.cluster.start_actor(EpisodeWorker, args, 1, **options)

        members = []
        for index in range(ray.workers):
            begin = partial(start, index)
            patience_s = ray.start_timeout_s
            members.append(RayWorker(index, begin, self.cluster, self.engines, patience_s))
            self._exit.callback(members[-1].close)
        for member in members:
            member.wait()
        queue = 0 if config.has_tools else places
        return Workers(members, ray.requeues, ray.start_timeout_s, queue)

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
            partial(reserved.options, "engine"),
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
