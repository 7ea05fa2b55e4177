"""`evolute loop`: the main job. Serve, measure, roll out, train, publish, tune, report."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import Json, PrintConfig, Set, emit, say, settings

app = typer.Typer(add_completion=False)


@app.command()
def loop(
    name: Annotated[str | None, typer.Option(help="name of the new run; default: the time")] = None,
    resume: Annotated[str | None, typer.Option(help="go on with this run")] = None,
    config: Annotated[list[Path] | None, typer.Option(help="TOML files, later ones win")] = None,
    set_: Set = None,
    print_config: PrintConfig = False,
    json: Json = False,
) -> None:
    """Run both loops on a live server and write a report.

    Settings are those of --print-config, e.g. --set train.task=addition-3 --set train.steps=20.
    Ctrl-C stops after the step in progress; --resume NAME goes on from there.
    """
    from evolute.cli import run_state
    from evolute.cli.main_job import LoopConfig, MainJob, check_task
    from evolute.types import ConfigError
    from evolute.types.settings import to_toml

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    runs = Path("runs")
    if resume and (name or set_ or config):
        raise ConfigError("--resume goes on with the run's own settings; drop the other options.")
    files = [run_state.find(runs, resume) / "config.toml"] if resume else config or []
    chosen = settings(LoopConfig, files, set_, print_config=print_config)
    run_dir = runs / (resume or name or time.strftime("%Y%m%d-%H%M%S"))
    if not resume:
        check_task(chosen)
        run_state.create(run_dir, to_toml(chosen))
    job = MainJob(chosen, run_dir, say)
    _stop_on_signal(job)
    report = job.run()
    if job.is_stopping:
        say(f"stopped; go on with: evolute loop --resume {run_dir.name}")
    if json:
        emit({"run": str(run_dir), "report": str(report), "finished": not job.is_stopping})


def _stop_on_signal(job) -> None:  # type: ignore[no-untyped-def]
    def stop(number: int, frame: object) -> None:
        if job.is_stopping:
            raise KeyboardInterrupt
        job.is_stopping = True
        say("stopping after the step in progress; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
