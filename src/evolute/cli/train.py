"""`evolute train rl|sft RECIPE.toml`: a training run, resumable."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from evolute.cli.options import (
    Json,
    PrintConfig,
    Set,
    Track,
    emit,
    overrides,
    say,
    settings,
)

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Train a model on its own rollouts, or on rows of a file."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def rl(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="TOML, see recipes/")],
    run_dir: Annotated[Path | None, typer.Option(help="default: runs/TIME; may exist")] = None,
    set_: Set = None,
    print_config: PrintConfig = False,
    track: Track = None,
    json: Json = False,
) -> None:
    """Reinforcement learning by a recipe. The same command with the same --run-dir goes on.

    Any setting may follow by its name: --steps 3 --optimizer.lr 1e-4, or --train.steps 3.
    """
    from evolute.cli.run_state import hold
    from evolute.dashboard.tracking import check, follow
    from evolute.models import load_model
    from evolute.telemetry import progress
    from evolute.train import Controller, StepReport, TrainConfig, effective_settings
    from evolute.types.settings import to_toml

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    changes = [*(set_ or []), *overrides(context.args, "train")]
    config = settings(TrainConfig, [recipe], changes, print_config=print_config)
    directory = run_dir or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    check(track or [])
    directory.mkdir(parents=True, exist_ok=True)
    for line in effective_settings(config):
        say(line)
    model = load_model(config.model)
    last: dict[str, float] = {}
    with (
        hold(directory),
        _parts(config, directory, model) as (engine, parts),
        progress("train", config.steps) as bar,
    ):

        def show(report: StepReport) -> None:
            last.update(report.metrics)
            bar.advance(report.step + 1, f"accuracy {report.metrics['accuracy_mean']:.2f}")
            following.update()

        controller = Controller(config, directory, model, engine, **parts)
        if not (directory / "config.toml").exists():  # others are refused by a run that goes on
            (directory / "config.toml").write_text(to_toml(config))
        with follow(directory, track or []) as following:
            done = asyncio.run(controller.run(show))
        adapter = controller.save_result()
    say(f"adapter: {adapter}")
    if json:
        emit({"run_dir": str(directory), "steps": done + 1, "adapter": str(adapter), **last})


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sft(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="TOML, see recipes/")],
    run_dir: Annotated[Path | None, typer.Option(help="default: runs/TIME; may exist")] = None,
    set_: Set = None,
    print_config: PrintConfig = False,
    track: Track = None,
    json: Json = False,
) -> None:
    """Supervised fine-tuning by a recipe. The same command with the same --run-dir goes on.

    Any setting may follow by its name: --epochs 1 --optimizer.lr 1e-4.
    """
    from evolute.cli.run_state import hold
    from evolute.dashboard.tracking import check, follow
    from evolute.models import load_model
    from evolute.telemetry import progress
    from evolute.train.sft import SftConfig, SftController, SftReport

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    changes = [*(set_ or []), *overrides(context.args, "sft")]
    config = settings(SftConfig, [recipe], changes, print_config=print_config)
    config = dataclasses.replace(config, data=tuple(_found(path, recipe) for path in config.data))
    directory = run_dir or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    check(track or [])
    directory.mkdir(parents=True, exist_ok=True)
    last: dict[str, float] = {}
    with hold(directory):
        controller = SftController(config, directory, load_model(config.model))
        _tell(controller.left_out)
        with progress("train", controller.num_steps) as bar:

            def show(report: SftReport) -> None:
                last.update(report.metrics)
                bar.advance(report.step + 1, f"loss {report.metrics['loss']:.3f}")
                following.update()

            with follow(directory, track or []) as following:
                done = controller.run(show)
        result = controller.save_result()
    say(f"{result.name}: {result}")
    if json:
        emit({"run_dir": str(directory), "steps": done + 1, result.name: str(result), **last})


# -- internals ---------------------------------------------------------------


@contextlib.contextmanager
def _parts(config: Any, run_dir: Path, model: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The engine of a run and what else its controller is given: of this process, or on Ray."""
    if config.ray.is_on:
        from evolute.train.ray import RayRun

        with RayRun(config, run_dir) as ray:
            yield ray.engines, {"crew": ray.crew, "players": ray.players}
        return
    from evolute.engine import Engine, EngineConfig

    with Engine(model, EngineConfig(page_size=4)) as engine:
        yield engine, {}


def _found(path: str, recipe: Path) -> str:
    """A data file here, or else beside the recipe."""
    beside = recipe.parent / path
    return str(beside) if not Path(path).exists() and beside.exists() else path


def _tell(left_out: dict[str, int]) -> None:
    for what, count in left_out.items():
        if count:
            say(f"{count} rows were too long and {what}.")
