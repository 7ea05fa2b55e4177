"""What this process tells Prometheus of its replicas: their sums as the engine's, and each one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolute.engine import metrics
from evolute.engine.counts import Counts
from evolute.engine.engine import EngineStats
from evolute.engine.replicas.router import Load
from evolute.engine.replicas.totals import add
from evolute.telemetry import gauge

ALIVE = gauge("engine/replicas_alive", "replicas that live")
EXPECTED = gauge("engine/replicas_expected", "replicas that should live")
IN_FLIGHT = gauge("engine/replicas_in_flight", "sequences sent there and not ended", ("replica",))
ROUTED = gauge(
    "engine/replicas_routed_requests", "requests sent there since it started", ("replica",)
)


def refresh(
    each: Sequence[EngineStats], retired: Counts, expected: int, loads: Mapping[int, Load]
) -> None:
    """Of the replicas that live, and the counts of those that were lost."""
    ALIVE.set(len(loads))
    EXPECTED.set(expected)
    for index in range(expected):
        load = loads.get(index)
        IN_FLIGHT.labels(str(index)).set(load.in_flight if load else 0)
        ROUTED.labels(str(index)).set(load.routed if load else 0)
    counts = retired
    for stats in each:
        counts = add(counts, stats.counts)
    metrics.show_counts(counts)
    metrics.RUNNING.set(sum(stats.running for stats in each))
    metrics.WAITING.set(sum(stats.waiting for stats in each))
    metrics.FREE_PAGES.set(sum(stats.free_pages for stats in each))
    metrics.CACHED_PAGES.set(sum(stats.cached_pages for stats in each))
    metrics.ADAPTER_PAGES.set(sum(stats.adapter_pages for stats in each))
    metrics.ADAPTERS.set(sum(stats.resident_adapters for stats in each))
    metrics.ADAPTER_LOADS.set(sum(stats.adapter_loads.loads for stats in each))
    metrics.ADAPTER_WAIT.set(sum(stats.adapter_loads.waited_s for stats in each))
