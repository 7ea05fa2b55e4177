"""Measuring: workloads, replay, comparisons, results."""

from evolute.bench.compare import Comparison, compare, table
from evolute.bench.registry import bench_names, run_bench
from evolute.bench.replay import replay
from evolute.bench.result import BenchResult
from evolute.bench.shapes import WorkItem
from evolute.bench.workload import SHAPES, load_workload, make_workload, save_workload

__all__ = [
    "SHAPES",
    "BenchResult",
    "Comparison",
    "WorkItem",
    "bench_names",
    "compare",
    "load_workload",
    "make_workload",
    "replay",
    "run_bench",
    "save_workload",
    "table",
]
