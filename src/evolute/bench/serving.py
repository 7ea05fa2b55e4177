"""The engine on the standard workloads: batch, shared, single, and paced arrivals."""

from __future__ import annotations

from evolute.bench.replay import replay
from evolute.bench.result import BenchResult
from evolute.bench.workload import make_workload
from evolute.engine import EngineConfig
from evolute.models import LoadedModel, load_model

WORKLOADS = ("batch", "shared", "single", "arrivals")


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All workloads one after the other; figures are named workload/figure. `quick` does a tenth
    of the work, once: it shows that the bench works and gates on counts, not times."""
    config = config or EngineConfig()
    loaded = load_model(model) if isinstance(model, str) else model
    scale, n = (0.1, 1) if quick else (1.0, repeats)
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    digests = []
    for shape in WORKLOADS:
        items = make_workload(shape, loaded.config.vocab_size, scale=scale)
        result = replay(loaded, items, config, repeats=n, paced=shape == "arrivals")
        figures |= {f"{shape}/{name}": value for name, value in result.figures.items()}
        spread |= {f"{shape}/{name}": value for name, value in result.spread.items()}
        digests.append(f"{shape}:{result.digest}")
    return BenchResult("serving", result.config, figures, n, spread, " ".join(digests))
