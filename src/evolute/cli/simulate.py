"""`evolute simulate FILE`: the real dispatcher and controllers on a virtual clock.

The file's `kind` says what is simulated: see KINDS. Nothing waits in real time.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from evolute.cli.options import Json, PrintConfig, Set, emit, settings
from evolute.types import ConfigError
from evolute.types.settings import nearest

app = typer.Typer(add_completion=False)


@app.command(name="simulate")
def simulate(
    file: Annotated[Path, typer.Argument(help="TOML with a `kind`, see recipes/simulate/")],
    set_: Set = None,
    print_config: PrintConfig = False,
    json: Json = False,
) -> None:
    """Predict makespan, idle share and live worlds for machines that one does not have, or of a
    recorded run under other limits."""
    found = KINDS[_kind(file)](file, set_ or [], print_config)
    if json:
        emit(found)


# -- internals ---------------------------------------------------------------


def _kind(file: Path) -> str:
    try:
        kind = tomllib.loads(file.read_text()).get("kind")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if kind not in KINDS:
        raise ConfigError(f"{file} has kind = {kind!r}. {nearest(str(kind), KINDS)}")
    return str(kind)


def _dispatch(file: Path, changes: list[str], print_config: bool) -> dict[str, Any]:
    from evolute.agents.simulation import SimulationConfig, compare, table
    from evolute.agents.simulation.compare import num_runs
    from evolute.telemetry import progress

    config = settings(SimulationConfig, [file], changes, print_config=print_config)
    with progress("simulate", num_runs(config)) as bar:
        comparison = compare(config, bar.advance)
    print(table(comparison))
    return {
        "kind": "dispatch",
        "rows": [dataclasses.asdict(row) for row in comparison.rows],
        "ratio": comparison.ratio,
        "ratio_equal_live": comparison.ratio_equal_live,
        "sweep": comparison.sweep,
        "config": dataclasses.asdict(config),
    }


def _training(file: Path, changes: list[str], print_config: bool) -> dict[str, Any]:
    from evolute.telemetry import progress
    from evolute.train.simulation import TrainingSimulation, predict, table

    config = settings(TrainingSimulation, [file], changes, print_config=print_config)
    with progress("simulate", len(config.schedules)) as bar:
        predictions = {}
        for number, schedule in enumerate(config.schedules, 1):
            predictions[schedule] = predict(config, schedule)
            bar.advance(number, schedule)
    print(table(predictions))
    return {
        "kind": "training",
        "schedules": {name: dataclasses.asdict(found) for name, found in predictions.items()},
        "config": dataclasses.asdict(config),
    }


def _replay(file: Path, changes: list[str], print_config: bool) -> dict[str, Any]:
    from evolute.agents.simulation import ReplayConfig, compared

    config = settings(ReplayConfig, [file], changes, print_config=print_config)
    found = compared(config)
    width = max(map(len, found))
    print(f"{'schedule'.ljust(width)}  makespan s  peak live")
    for name, row in found.items():
        print(f"{name.ljust(width)}  {row.makespan_s:10.2f}  {row.peak_live:9.0f}")
    rows = {name: dataclasses.asdict(row) for name, row in found.items()}
    return {"kind": "replay", "schedules": rows, "config": dataclasses.asdict(config)}


KINDS: dict[str, Callable[[Path, list[str], bool], dict[str, Any]]] = {
    "dispatch": _dispatch,
    "training": _training,
    "replay": _replay,
}
