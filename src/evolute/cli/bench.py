"""`evolute bench`: measure, and print one JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import Json, Model, Set, emit, say, settings

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="serving or replay")],
    model: Model = "smollm2-135m",
    workload: Annotated[
        str, typer.Option(help="batch, shared, single, or a recorded .jsonl file")
    ] = "batch",
    repeats: int = 1,
    quick: Annotated[bool, typer.Option(help="a tenth of the work")] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Run a workload through the engine: tokens a second, tokens computed, digest of outputs."""
    from dataclasses import asdict

    from evolute.bench import load_workload, make_workload, replay
    from evolute.engine import EngineConfig
    from evolute.models import load_model
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    if name not in ("serving", "replay"):
        raise ConfigError(f"no bench {name!r}. {nearest(name, ('serving', 'replay'))}")
    config = settings(EngineConfig, [], set_)
    loaded = load_model(model)
    if workload.endswith(".jsonl"):
        items = load_workload(Path(workload))
    else:
        scale = 0.1 if quick else 1.0
        items = make_workload(workload, loaded.config.vocab_size, scale=scale)
    result = asdict(replay(loaded, items, config, repeats=repeats))
    if json:
        emit(result)
        return
    for key, value in result["figures"].items():
        print(f"{key:24}{value:12.1f}")
    say(f"digest {result['digest'][:16]}, n = {result['n']}")
