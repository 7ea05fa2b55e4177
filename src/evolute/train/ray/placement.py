"""Which actor stands where? Bundles of resources, and who takes which of them.

    layout(config) -> Layout                 pure: one bundle an actor, or one for a pair
    reserve(cluster, layout, timeout_s) -> Reserved
    reserved.options("engine", 0)            of Ray, for the actor that stands there
    reserved.free()

Apart, each engine, trainer and worker has a bundle of its own. Colocated, engine i and trainer i
share bundle i, and take turns. Either way Ray gives all of them or none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from evolute.engine.replicas.cluster import Cluster
from evolute.train.settings_ray import RayConfig
from evolute.types import ConfigError

Kind = Literal["engine", "trainer", "worker"]
Bundle = dict[str, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """What is asked of Ray. `places` has the bundle of each actor, by kind."""

    bundles: tuple[Bundle, ...]
    places: dict[Kind, tuple[int, ...]]
    shares: dict[Kind, Bundle]  # of one actor
    strategy: str

    @property
    def cpus(self) -> int:
        return math.ceil(sum(bundle["CPU"] for bundle in self.bundles))

    @property
    def gpus(self) -> float:
        return sum(bundle.get("GPU", 0.0) for bundle in self.bundles)


def layout(config: RayConfig) -> Layout:
    """Trainers come first, so that a packed group of them lies on as few machines as can be."""
    shares: dict[Kind, Bundle] = {
        "trainer": _bundle(config.trainer_cpus),
        "engine": _bundle(config.engine_cpus, config.engine_gpus),
        "worker": _bundle(1),
    }
    bundles: list[Bundle] = []
    places: dict[Kind, tuple[int, ...]] = {}
    if config.placement == "colocated":
        both = {"CPU": 0.0, "GPU": 0.0}
        for kind in ("trainer", "engine"):
            both = {name: both[name] + shares[kind].get(name, 0.0) for name in both}
        bundles = [_bundle(both["CPU"], math.ceil(both["GPU"])) for _ in range(config.engines)]
        places = {"trainer": tuple(range(config.engines)), "engine": tuple(range(config.engines))}
        counts: dict[Kind, int] = {"worker": config.workers}
    else:
        counts = {"trainer": config.trainers, "engine": config.engines, "worker": config.workers}
    for kind, count in counts.items():
        places[kind] = tuple(range(len(bundles), len(bundles) + count))
        bundles += [shares[kind]] * count
    return Layout(tuple(bundles), places, shares, config.nodes.upper())


@dataclass(frozen=True, slots=True)
class Reserved:
    """A placement group that is there."""

    cluster: Cluster
    layout: Layout
    group: Any

    def options(self, kind: Kind, index: int) -> dict[str, Any]:
        """Of `Cluster.start_actor`, besides the number of CPUs."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self.group,
            placement_group_bundle_index=self.layout.places[kind][index],
            placement_group_capture_child_tasks=False,
        )
        gpus = self.layout.shares[kind].get("GPU", 0.0)
        return {"scheduling_strategy": strategy, "num_gpus": gpus}

    def free(self) -> None:
        """Give the bundles back; of no effect when Ray is gone already."""
        if self.cluster.ray.is_initialized():
            self.cluster.ray.util.remove_placement_group(self.group)


def reserve(cluster: Cluster, wanted: Layout, timeout_s: float) -> Reserved:
    """Wait for all bundles. Raises ConfigError with what there is when they do not come."""
    ray, there = cluster.ray, cluster.ray.cluster_resources()
    if cluster.is_ours and wanted.gpus > there.get("GPU", 0.0):
        raise _refused(wanted, there, "this machine has not got that, and no other is connected")
    group = ray.util.placement_group([dict(b) for b in wanted.bundles], strategy=wanted.strategy)
    ready, _ = ray.wait([group.ready()], timeout=timeout_s)
    if not ready:
        ray.util.remove_placement_group(group)
        raise _refused(wanted, there, f"it did not come within {timeout_s:g} s")
    return Reserved(cluster, wanted, group)


# -- internals ---------------------------------------------------------------


def _bundle(cpus: float | int, gpus: float | int = 0) -> Bundle:
    return {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})


def _refused(wanted: Layout, there: dict[str, float], why: str) -> ConfigError:
    counts = ", ".join(f"{len(places)} {kind}s" for kind, places in wanted.places.items())
    return ConfigError(
        f"no room for {counts}: {wanted.cpus} CPUs and {wanted.gpus:g} GPUs in "
        f"{len(wanted.bundles)} bundles, laid by ray.nodes = {wanted.strategy.lower()!r}; {why}. "
        f"The cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs in all. "
        "Ask for fewer actors or smaller shares (ray.engines, ray.trainers, ray.*_cpus, "
        "ray.*_gpus), set ray.nodes = 'pack', or add machines (`ray start --address=HOST:PORT`)."
    )
