"""`evolute track RUN --to tensorboard`: figures of a run where a team already looks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import Json, emit, say

app = typer.Typer(add_completion=False)


@app.command()
def track(
    run: Annotated[str, typer.Argument(help="name of a run under runs/, or its directory")],
    to: Annotated[list[str], typer.Option(help="tensorboard, wandb or mlflow; repeatable")],
    watch: Annotated[bool, typer.Option(help="go on with each new step, until Ctrl-C")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 5.0,
    json: Json = False,
) -> None:
    """Send what a run has measured, also while it runs; called again, only what is new.

    TensorBoard reads RUN/tensorboard: `tensorboard --logdir runs`. W&B and MLflow are told by
    their own environment variables where to send: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI.
    """
    from evolute.dashboard.tracking import follow
    from evolute.types import ConfigError

    directory = Path(run) if Path(run).is_dir() else Path("runs") / run
    if not (directory / "metrics.jsonl").exists():
        raise ConfigError(f"{directory} holds no metrics.jsonl; name a run directory.")
    with follow(directory, to) as following:
        following.update()
        try:
            while watch:
                time.sleep(every_s)
                following.update()
        except KeyboardInterrupt:
            say("no longer watched; the same command goes on.")
    if json:
        emit({"run_dir": str(directory), "records": following.sent})
