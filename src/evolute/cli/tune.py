"""`evolute tune engine`: the system loop on one part."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import Json, Model, Set, as_options, emit, say, settings

app = typer.Typer(add_completion=False)
METHODS = ("random", "optuna", "model")


@app.command()
def tune(
    system: Annotated[str, typer.Argument(help="engine")],
    by: Annotated[str, typer.Option(help="random, optuna or model")] = "random",
    model: Model = "smollm2-135m",
    workload: Annotated[Path | None, typer.Option(help="recorded .jsonl; default: made")] = None,
    trials: int = 8,
    pairs: Annotated[int, typer.Option(help="interleaved measurements a trial, 2 to 10")] = 3,
    ledger: Annotated[Path, typer.Option(help="trials are appended here")] = Path("ledger.jsonl"),
    set_: Set = None,
    json: Json = False,
) -> None:
    """Propose, try in a subprocess, judge, keep or drop. --set gives the starting settings."""
    from evolute.bench import make_workload, save_workload
    from evolute.engine import Engine, EngineConfig
    from evolute.envs.tuning import Judge, SubprocessRunner, engine_space
    from evolute.evolve import Ledger, ModelProposer, OptunaProposer, Proposer, RandomProposer
    from evolute.evolve import tune as run_tune
    from evolute.models import load_model
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    for value, known, what in ((system, ("engine",), "system"), (by, METHODS, "method")):
        if value not in known:
            raise ConfigError(f"no {what} {value!r}. {nearest(value, known)}")
    config = settings(EngineConfig, [], set_)
    file = workload or ledger.with_suffix(".workload.jsonl")
    if not file.exists():
        vocab = load_model(model).config.vocab_size
        save_workload(make_workload("shared", vocab, scale=0.25), file)
    runner = SubprocessRunner(model, file, dataclasses.asdict(config))
    judge = Judge(runner, file, pairs=pairs, conditions=repr(runner))
    engine = Engine(model, config) if by == "model" else None
    proposer: Proposer = RandomProposer() if by == "random" else OptunaProposer()
    if engine:
        proposer = ModelProposer(engine)
    report = asyncio.run(
        run_tune(
            engine_space(dataclasses.asdict(config)),
            judge,
            [proposer],
            Ledger(ledger),
            max_trials=trials,
            on_trial=lambda t: say(f"trial {t.id}: {dict(t.change)} -> {t.verdict}: {t.why}"),
        )
    )
    if engine:
        engine.close()
    if report.best:
        say(f"to have it: evolute serve {as_options(report.best)}")
    if json:
        emit(dataclasses.asdict(report))
    else:
        print(f"{report.best or 'nothing beats the settings in force'}: {report.why}")
