"""Run a workload through an engine and say what it cost, and whether the answers are the same."""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evolute.bench.workload import WorkItem
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel
from evolute.types import SamplingParams


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One bench: settings, figures (medians), number of repeats, spread, digest of the outputs."""

    name: str
    config: dict[str, Any]
    figures: dict[str, float]
    n: int
    spread: dict[str, tuple[float, float]]  # least and greatest of the repeats
    digest: str


def replay(
    model: str | LoadedModel, items: Sequence[WorkItem], config: EngineConfig, *, repeats: int = 1
) -> BenchResult:
    """All requests at once, greedy, on a fresh cache each repeat; one short warm-up before."""
    rounds: list[dict[str, float]] = []
    digests = set()
    with Engine(model, config) as engine:
        engine.generate([list(items[0].prompt)], SamplingParams(max_new_tokens=2, temperature=0))
        for _ in range(repeats):
            engine.flush_cache()
            figures, digest = _round(engine, items)
            rounds.append(figures)
            digests.add(digest)
        settings = asdict(engine.config)
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    spread = {k: (min(r[k] for r in rounds), max(r[k] for r in rounds)) for k in rounds[0]}
    digest = digests.pop() if len(digests) == 1 else f"unstable: {len(digests)} different outputs"
    return BenchResult("replay", settings, middle, repeats, spread, digest)


def _round(engine: Engine, items: Sequence[WorkItem]) -> tuple[dict[str, float], str]:
    before = engine.stats().counts
    started = time.perf_counter()
    outputs = engine.generate(
        [list(item.prompt) for item in items],
        [
            SamplingParams(max_new_tokens=item.max_new_tokens, temperature=0, ignore_eos=True)
            for item in items
        ],
    )
    seconds = time.perf_counter() - started
    after = engine.stats().counts
    made = sum(len(output.token_ids) for output in outputs)
    prompt = sum(len(item.prompt) for item in items)
    pairs = sorted((item.id, output.token_ids) for item, output in zip(items, outputs))
    figures = {
        "seconds": seconds,
        "output_tokens_per_s": made / seconds,
        "total_tokens_per_s": (made + prompt) / seconds,
        "output_tokens": float(made),
        "computed_tokens": float(after.computed_tokens - before.computed_tokens),
        "cached_tokens": float(after.cached_tokens - before.cached_tokens),
        "steps": float(after.steps - before.steps),
        "preemptions": float(after.preemptions - before.preemptions),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return figures, hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
