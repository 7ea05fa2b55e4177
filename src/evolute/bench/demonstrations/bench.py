"""Which changes to its demonstrations does a student feel? A controlled experiment.

    phase A   an untrained student learns single steps at any place, and walks of up to two
    phase B   from there, each variant of the same long traces: right, without thoughts, content
              corrupted, structure edited; all weights, and an adapter once
    figures   accuracy on held-out walks by variant, what each variant costs, signs

All variants of all seeds start from one taught student; `repeats` are seeds, and each draws its own
traces, edits, order and held-out problems. What was done stays in `keep`, and a run that was killed
goes on there. After arXiv 2502.07374, with a model that knows how to do a step before it learns how
to put steps together.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from evolute.bench.demonstrations.figures import figures_of, notes_of
from evolute.bench.demonstrations.lab import Lab, Sizes, teach
from evolute.bench.demonstrations.probes import Answers
from evolute.bench.result import BenchResult, summarize
from evolute.engine import EngineConfig
from evolute.models import LoadedModel
from evolute.types import ConfigError
from evolute.types.settings import nearest

STRUCTURE = tuple(
    f"{kind}-{share}" for kind in ("shuffle", "delete", "insert") for share in (33, 67, 100)
)
CONTENT = ("wrong", "digits-20", "digits-50", "digits-70", "digits-100", "keywords-100")
VARIANTS = ("correct", "lora", "short", *CONTENT, "digits-100-solution", *STRUCTURE)
FEW = (
    *("correct", "shuffle-67", "wrong", "delete-67", "digits-50", "insert-67", "keywords-100"),
    *("shuffle-100", "delete-100", "insert-100", "lora", "short", "digits-70", "digits-100"),
)
QUICK = Sizes(skills=640, sums=640, mixed=240, traces=100, heldout=20)


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "student",
    config: EngineConfig | None = None,
    repeats: int = 3,
    sizes: Sizes | None = None,
    variants: Sequence[str] = FEW,
    keep: Path | None = None,
    on_result: Callable[[str], None] | None = None,
) -> BenchResult:
    """Train and ask a student for each seed and variant; `quick` has a twentieth of everything.
    Raises ConfigError for a model (the student is the experiment's own), for a variant that is
    none, and for a folder `keep` of another experiment."""
    if model not in ("student", "smollm2-135m"):
        raise ConfigError("bench demonstrations trains a student of its own; drop --model.")
    chosen = _chosen(variants)
    sizes = sizes or (QUICK if quick else Sizes())
    config = config or EngineConfig(num_threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        _claim(folder, sizes)
        seeds = _run(folder, sizes, chosen, config, repeats, on_result or (lambda text: None))
    _, spread = summarize([{name: one.accuracy for name, one in seed.items()} for seed in seeds])
    settings = {"sizes": dataclasses.asdict(sizes), "variants": list(chosen)}
    figures = figures_of(seeds, STRUCTURE, CONTENT)
    named = {f"accuracy/{name}": ends for name, ends in spread.items()}
    return BenchResult("demonstrations", settings, figures, repeats, named, notes=notes_of(seeds))


# -- internals ---------------------------------------------------------------


def _run(
    folder: Path,
    sizes: Sizes,
    variants: Sequence[str],
    config: EngineConfig,
    repeats: int,
    tell: Callable[[str], None],
) -> list[dict[str, Answers]]:
    """What each seed's students answered, by variant; `base` is the student before phase B."""
    taught = teach(folder / "taught", sizes, config)
    tell(f"taught: {taught.skills:.3f} of the skills")
    seeds = []
    for seed in range(repeats):
        lab = Lab(folder / f"seed-{seed}", seed, sizes, config, taught)
        found: dict[str, Answers] = {}
        for name in ("base", *variants):
            found[name] = lab.answers(name)
            tell(f"seed {seed} {name}: {found[name].told}")
        seeds.append(found)
    return seeds


def _chosen(variants: Sequence[str]) -> tuple[str, ...]:
    for name in variants:
        if name not in VARIANTS:
            raise ConfigError(f"no variant {name!r}. {nearest(name, VARIANTS)}")
    return tuple(dict.fromkeys(("correct", *variants)))


def _claim(folder: Path, sizes: Sizes) -> None:
    """A folder holds one experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    file, told = folder / "sizes.json", json.dumps(dataclasses.asdict(sizes), indent=1)
    if file.exists() and file.read_text() != told:
        raise ConfigError(f"{folder} holds an experiment of other sizes; give an empty folder.")
    file.write_text(told)
