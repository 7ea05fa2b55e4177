"""`evolute watch RUN`: a training run in the browser, while it goes on or afterwards."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from evolute.cli.options import say

app = typer.Typer(add_completion=False)


@app.command()
def watch(
    run: Annotated[str, typer.Argument(help="name of a run under runs/, or its directory")],
    host: Annotated[str, typer.Option(help="0.0.0.0 shows it to the network, without a key")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 0,
) -> None:
    """Curves of the run, and every rollout to read: masks and advantages on its tokens.

    Prints `ready http://HOST:PORT/run` and goes on until Ctrl-C. It only reads the run's files.
    """
    from fastapi import FastAPI

    from evolute.dashboard.training import training_router
    from evolute.server import serve_in_thread
    from evolute.server.errors import install
    from evolute.types import ConfigError

    directory = Path(run) if Path(run).is_dir() else Path("runs") / run
    if not directory.is_dir():
        raise ConfigError(f"there is no run {run!r}, here or under runs/; name a run directory.")
    app = FastAPI(openapi_url=None)
    install(app)
    app.include_router(training_router(directory))
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    with serve_in_thread(app, host, port) as server:
        print(f"ready {server.url}/run", flush=True)
        while not stop.wait(1.0):
            pass
    say("no longer shown.")
