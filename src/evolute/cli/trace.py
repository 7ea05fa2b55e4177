"""`evolute trace RUN`: where the time of a run went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import Json, emit

app = typer.Typer(add_completion=False)


@app.command()
def trace(
    run: Annotated[str, typer.Argument(help="name of a run under runs/, or its directory")],
    json: Json = False,
) -> None:
    """Seconds of each phase and of each part of the training steps, and a timeline to look at."""
    from evolute.dashboard import write_timeline
    from evolute.telemetry import read_records
    from evolute.types import ConfigError

    directory = Path(run) if Path(run).is_dir() else Path("runs") / run
    records = read_records(directory / "metrics.jsonl")
    if not records:
        raise ConfigError(f"{directory} holds no metrics.jsonl; name a run directory.")
    phases = {r["name"]: r["seconds"] for r in records if r["kind"] == "phase"}
    steps = [r for r in records if r["kind"] == "train_step"]
    parts = {
        part: sum(float(step.get(part, 0.0)) for step in steps)
        for part in ("rollout_s", "update_s", "publish_s")
    }
    traces = sorted(directory.glob("trace*.jsonl"))
    timeline = write_timeline(traces, directory / "timeline.html") if traces else None
    if json:
        found = {"phases": phases, "training": parts, "steps": len(steps)}
        emit({**found, "timeline": str(timeline) if timeline else None})
        return
    for name, seconds in {**phases, **parts}.items():
        print(f"{name:12}{seconds:9.1f} s")
    if timeline:
        print(f"timeline: {timeline}")
