"""The benches by name.

bench_names() -> names;  run_bench(name, quick=..., ...) -> BenchResult
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from evolute.bench.result import BenchResult
from evolute.engine import EngineConfig
from evolute.models import LoadedModel
from evolute.types import ConfigError
from evolute.types.settings import nearest

MODULES = {  # loaded when it is run: training imports the trainer
    "adapters": "evolute.bench.adapters",
    "asynchrony": "evolute.bench.asynchrony",
    "demonstrations": "evolute.bench.demonstrations.bench",
    "dispatch": "evolute.bench.dispatch",
    "fairness": "evolute.bench.fairness",
    "generator": "evolute.bench.load.generator",
    "grammar": "evolute.bench.grammar",
    "programs": "evolute.bench.programs.bench",
    "radix": "evolute.bench.radix",
    "routing": "evolute.bench.routing",
    "s_star": "evolute.bench.programming.s_star",
    "serving": "evolute.bench.serving",
    "sft": "evolute.bench.sft",
    "soak": "evolute.bench.soak",
    "speculation": "evolute.bench.speculation",
    "thoughts": "evolute.bench.thoughts.bench",
    "tier": "evolute.bench.tier",
    "training": "evolute.bench.training",
}


class Bench(Protocol):
    """What a bench module's `run` takes."""

    def __call__(
        self,
        quick: bool,
        *,
        model: str | LoadedModel,
        config: EngineConfig | None,
        repeats: int,
    ) -> BenchResult: ...


def bench_names() -> list[str]:
    return sorted(MODULES)


def run_bench(
    name: str,
    *,
    quick: bool = False,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """Run one bench. Raises ConfigError for an unknown name."""
    if name not in MODULES:
        raise ConfigError(f"no bench {name!r}. {nearest(name, MODULES)}")
    run = cast(Bench, importlib.import_module(MODULES[name]).run)
    return run(quick, model=model, config=config, repeats=repeats)
