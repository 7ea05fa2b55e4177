"""`evolute bench`: measure, and print one JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolute.cli.options import Json, Model, Set, emit, say, settings

if TYPE_CHECKING:
    from evolute.bench import BenchResult
    from evolute.engine import EngineConfig

app = typer.Typer(add_completion=False)
NAMES = ("adapters", "serving", "training", "replay")


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="serving: each workload; replay: one; training: rollouts and updates; "
            "adapters: many on one base"
        ),
    ],
    model: Model = "smollm2-135m",
    workload: Annotated[
        str | None,
        typer.Option(
            help="batch, shared, single, chat, arrivals, or a recorded .jsonl file; "
            "default: batch for replay, all for serving"
        ),
    ] = None,
    paced: Annotated[
        bool, typer.Option(help="send each request at its moment, and measure latencies")
    ] = False,
    repeats: int = 1,
    quick: Annotated[bool, typer.Option(help="a tenth of the work")] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Tokens a second, tokens computed, seconds of an update; the digest of all outputs."""
    from dataclasses import asdict

    from evolute.bench import run_bench
    from evolute.engine import EngineConfig
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    if name not in NAMES:
        raise ConfigError(f"no bench {name!r}. {nearest(name, NAMES)}")
    if name in ("adapters", "training") and (workload or paced):
        raise ConfigError(f"bench {name} makes its own work; drop --workload and --paced.")
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it must be at least 1.")
    config = settings(EngineConfig, [], set_)
    if name == "replay" or workload or paced:
        result = _replay(model, workload or "batch", config, repeats, quick=quick, paced=paced)
    else:
        result = run_bench(name, quick=quick, model=model, config=config, repeats=repeats)
    if json:
        emit(asdict(result))
        return
    for key, value in result.figures.items():
        print(f"{key:32}{value:12.1f}")
    say(f"digest {result.digest[:16]}, n = {result.n}")


def _replay(
    model: str, workload: str, config: EngineConfig, repeats: int, *, quick: bool, paced: bool
) -> BenchResult:
    from evolute.bench import load_workload, make_workload, replay
    from evolute.models import load_model

    loaded = load_model(model)
    if workload.endswith(".jsonl"):
        items = load_workload(Path(workload))
    else:
        items = make_workload(workload, loaded.config.vocab_size, scale=0.1 if quick else 1.0)
    return replay(loaded, items, config, repeats=repeats, paced=paced)
