"""Measuring: workloads, replay, results."""

from evolute.bench.replay import BenchResult, replay
from evolute.bench.workload import SHAPES, WorkItem, load_workload, make_workload, save_workload

__all__ = [
    "SHAPES",
    "BenchResult",
    "WorkItem",
    "load_workload",
    "make_workload",
    "replay",
    "save_workload",
]
