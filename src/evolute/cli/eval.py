"""`evolute eval`: accuracy on a task, with a confidence interval."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from evolute.cli.options import Json, Model, Set, emit, settings

app = typer.Typer(add_completion=False)


@app.command(name="eval")
def evaluate_task(
    task: Annotated[str, typer.Argument(help="e.g. addition-2 or reasoning-gym:chain_sum")],
    model: Model = "smollm2-135m",
    adapter: Annotated[str | None, typer.Option(help="a PEFT directory")] = None,
    count: Annotated[int, typer.Option(help="held-out problems")] = 128,
    temperature: float = 0.0,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Answer held-out problems once each and count the right ones."""
    from evolute.engine import Engine, EngineConfig
    from evolute.envs import evaluate, make_task
    from evolute.telemetry import progress

    world = make_task(task)
    with Engine(model, settings(EngineConfig, [], set_)) as engine:
        if adapter:
            engine.load_adapter("adapter", adapter)
        with progress(task, count) as bar:
            accuracy = asyncio.run(
                evaluate(
                    world,
                    engine,
                    count=count,
                    adapter="adapter" if adapter else None,
                    temperature=temperature,
                    on_progress=bar.advance,
                )
            )
    interval = accuracy.interval
    if json:
        emit(
            {
                "task": task,
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "n": accuracy.n,
                "failed": accuracy.num_failed,
            }
        )
    else:
        print(f"{task}: {interval.mean:.1%} ({interval.low:.1%} to {interval.high:.1%})")
