"""Which router finds prefixes again, and keeps replicas and tenants together? Counts, no model.

    prefixes     tenants with long prefixes of their own, of which a replica can hold a part
    hot          most requests begin alike
    flood        tenants that all wait all the time; a broken bound fails the bench

Four simulated replicas under each routing (`bench/simulated/fleet.py`), `dlpm` at each of them.
Figures are counts: they are the same on every machine.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import get_args

from evolute.bench.result import BenchResult
from evolute.bench.simulated.fleet import (
    FleetRun,
    fleet_bound,
    one_hot_prefix,
    run_fleet,
    shared_prefixes,
)
from evolute.bench.simulated.tenants import BrokenBound
from evolute.engine import EngineConfig
from evolute.engine.replicas import ReplicaConfig
from evolute.engine.replicas.config import RoutingName
from evolute.engine.scheduling import Arrival, SimulationSettings
from evolute.models import LoadedModel
from evolute.types import ConfigError

REPLICAS, LONGEST = 4, 96
ENGINE = SimulationSettings(num_pages=160, token_budget=256, max_running=8, policy="dlpm")
FLOODED = SimulationSettings(
    num_pages=24, token_budget=64, max_running=4, policy="dlpm", quantum=64
)


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "tiny",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All workloads under all routings. Raises BrokenBound, and ConfigError for settings."""
    if config not in (None, EngineConfig()):
        raise ConfigError("bench routing simulates engines of its own; drop --set.")
    scale = 4 if quick else 16
    prefixes = shared_prefixes(
        groups=24, each=scale, prefix=256, unique=32, output=16, per_step=1.0, tenants=4
    )
    hot = one_hot_prefix(count=25 * scale, hot=0.7, prefix=256, unique=32, output=16, per_step=1.0)
    figures: dict[str, float] = {}
    names = [name for name in get_args(RoutingName) if name != "sticky"]  # no sessions here
    for name in names:
        for workload, arrivals in (("prefixes", prefixes), ("hot", hot)):
            found = run_fleet(arrivals, ENGINE, ReplicaConfig(REPLICAS, name))
            figures |= _figures(f"{workload}/{name}", found)
        found = run_fleet(flood(10 * scale), FLOODED, ReplicaConfig(REPLICAS, name))
        gap, limit = found.worst_gap(), fleet_bound(FLOODED, REPLICAS, LONGEST)
        if name == "d2lpm" and gap > limit:
            raise BrokenBound(f"flood under {name}: a gap of {gap:.0f}, above {limit:.0f}.")
        figures |= _figures(f"flood/{name}", found) | {f"flood/{name}/gap_of_bound": gap / limit}
    settings = {"engine": asdict(ENGINE), "flooded": asdict(FLOODED), "replicas": REPLICAS}
    return BenchResult("routing", settings, figures, 1, {k: (v, v) for k, v in figures.items()})


def flood(steps: int, seed: int = 0) -> list[Arrival]:
    """Three tenants with requests of different sizes, more than four replicas can serve."""
    draw, found = random.Random(seed), list[Arrival]()
    shapes = {"small": (16, 4), "middle": (48, 12), "large": (LONGEST, 24)}
    for step in range(steps):
        for tenant, (prompt, output) in shapes.items():
            for _ in range(draw.choice([1, 2, 3])):
                text = tuple(draw.choices(range(50), k=draw.randint(1, prompt)))
                found.append(Arrival(step, text, draw.randint(1, output), tenant))
    return found


# -- internals ---------------------------------------------------------------


def _figures(title: str, run: FleetRun) -> dict[str, float]:
    counts = [run.routed.count(replica) for replica in range(run.num_replicas)]
    return {
        f"{title}/hit_rate": run.hit_rate,
        f"{title}/steps": float(run.num_steps),
        f"{title}/busiest_of_mean": max(counts) * run.num_replicas / max(sum(counts), 1),
        f"{title}/sent_to_wait": float(run.sent_to_wait),
        f"{title}/idle_of_busy": run.idle_steps / run.busy_steps,
        f"{title}/charged_spread": run.worst_spread,
    }
