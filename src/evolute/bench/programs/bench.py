"""What do prefix cache, hints, jump-forward and scheduling bring to the programs people write?

Every shape of `lang/shapes`, in every way of `bench/programs/sides.py`, one after the other in
each round. Per shape: `cached_of_best` (prompt tokens found, of those that the best cache finds:
exact), `seconds` and `SIDE_ratio`, the seconds of that way by ours in the same round. `all/` is the
geometric mean over the shapes, of `cached_of_best` the least. The ways over HTTP are compared with
ours over HTTP (`openai_ratio`), and ours over HTTP with ours in process (`http_ratio`).

`many/` is another matter: thousands of small programs at once on a double, so what the language
itself costs. Answers must be equal in all ways where they are greedy and calls are the same; where
they are not, a note says so (a text that is tokenised as a whole may be other tokens).
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evolute.bench.programs.many import run_many
from evolute.bench.programs.sides import OVER_HTTP, Ran, Sides
from evolute.bench.result import BenchResult, one_digest, summarize
from evolute.bench.told import tell
from evolute.engine import EngineConfig
from evolute.lang.shapes import SHAPES
from evolute.models import LoadedModel, load_model
from evolute.types import ConfigError
from evolute.types.settings import nearest

MANY, QUICK_MANY = 5_000, 200
QUICK_COUNT = 4
Figures = dict[str, float]


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
    shapes: Sequence[str] = (),
    ways: Sequence[str] = (),
) -> BenchResult:
    """All shapes or those named (`many` among them), `repeats` rounds each, in all ways or in ours
    and those named; `quick`: one round of few programs. A model that is given loaded is not served,
    so nothing goes over HTTP."""
    chosen, repeats = _chosen(shapes), 1 if quick else repeats
    config = config or EngineConfig()
    rounds: list[Figures] = [{} for _ in range(repeats)]
    digests, notes = {}, []
    named = [name for name in chosen if name != "many"]
    if named:
        loaded = load_model(model) if isinstance(model, str) else model
        served = model if isinstance(model, str) else None
        with Sides(loaded, config, server=served, names=ways) as sides:
            for name in named:
                found, digest, different = _shape(sides, name, repeats, quick=quick)
                for figures, more in zip(rounds, found):
                    figures |= more
                digests[name] = digest
                notes += different
        for figures in rounds:
            figures |= _over_all(figures, named)
    if "many" in chosen:
        for figures in rounds:
            figures |= run_many(QUICK_MANY if quick else MANY)
    median, spread = summarize(rounds)
    settings: dict[str, Any] = {"engine": asdict(config), "shapes": chosen}
    digest = one_digest([json.dumps(digests, sort_keys=True)]) if digests else ""
    short = hashlib.sha256(digest.encode()).hexdigest() if digest else ""
    return BenchResult("programs", settings, median, repeats, spread, short, tuple(notes))


# -- internals ---------------------------------------------------------------


def _chosen(shapes: Sequence[str]) -> list[str]:
    known = [*SHAPES, "many"]
    for name in shapes:
        if name not in known:
            raise ConfigError(f"no shape of programs {name!r}. {nearest(name, known)}")
    return list(shapes) or known


def _shape(
    sides: Sides, name: str, repeats: int, *, quick: bool
) -> tuple[list[Figures], str, list[str]]:
    """Figures of each round, the digest of the answers, and which ways answered otherwise."""
    shape = SHAPES[name]
    warm = shape.inputs(1, seed=999)
    for side in sides.names:
        sides.run(side, name, warm)  # grammars are compiled, connections are made
    found: list[Figures] = []
    digests: dict[str, list[str]] = {}
    for number in range(repeats):
        count = QUICK_COUNT if quick else shape.count
        arguments = shape.inputs(count, seed=number)
        order = sides.names[::-1] if number % 2 else sides.names
        rans = {side: _told(sides, side, name, arguments) for side in order}
        found.append({f"{name}/{key}": value for key, value in _figures(rans).items()})
        for side, ran in rans.items():
            digests.setdefault(side, []).append(_digest(ran))
    ours = digests["ours"]
    notes = [
        f"{name}: {side} answered otherwise in {sum(a != b for a, b in zip(ours, theirs))} of "
        f"{repeats} rounds"
        for side, theirs in digests.items()
        if theirs != ours
    ]
    return found, " ".join(ours), notes


def _told(sides: Sides, side: str, name: str, arguments: Sequence[dict[str, Any]]) -> Ran:
    ran = sides.run(side, name, arguments)
    tell(f"{name}, {len(arguments)} programs, {side}: {ran.seconds:.1f} s")
    return ran


def _figures(rans: dict[str, Ran]) -> Figures:
    share = rans["ours"].share
    assert share is not None
    figures = {
        "cached_of_best": share.of_best,
        "prompt_tokens": float(share.total),
        "best_cached_tokens": float(share.best),
        "seconds": rans["ours"].seconds,
    }
    for side, ran in rans.items():
        if side == "ours":
            continue
        if ran.share is not None:
            figures[f"{side}_cached_of_best"] = ran.share.of_best
        by = rans["http" if side in OVER_HTTP and side != "http" else "ours"]
        figures[f"{side}_ratio"] = ran.seconds / by.seconds
    return figures


def _over_all(figures: Figures, names: Sequence[str]) -> Figures:
    kinds = {key.partition("/")[2] for key in figures}
    found = {}
    for kind in sorted(kinds):
        values = [figures[f"{name}/{kind}"] for name in names]
        if kind.endswith("_ratio"):
            found[f"all/{kind}"] = statistics.geometric_mean(values)
        elif kind.endswith("cached_of_best"):
            found[f"all/least_{kind}"] = min(values)
    cached = sum(
        figures[f"{name}/cached_of_best"] * figures[f"{name}/best_cached_tokens"] for name in names
    )
    best = sum(figures[f"{name}/best_cached_tokens"] for name in names)
    return found | {"all/cached_of_best": cached / best}


def _digest(ran: Ran) -> str:
    """Of what the programs answered, as far as every way tells it."""
    told = [{name: value for name, value in one.items()} for one in ran.answers]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
