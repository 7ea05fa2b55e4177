"""`evolute serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from evolute.cli.options import Model, PrintConfig, Set, settings

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    model: Model = "smollm2-135m",
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one")] = 8000,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=DIRECTORY of a PEFT adapter; repeatable")
    ] = None,
    api_key: Annotated[list[str] | None, typer.Option(help="accepted bearer keys")] = None,
    set_: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve a model; prints `ready http://HOST:PORT` when requests are accepted."""
    from evolute.cli.options import free_port
    from evolute.engine import Engine, EngineConfig
    from evolute.server import create_app
    from evolute.server import serve as run_server
    from evolute.types import ConfigError

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = settings(EngineConfig, [], set_, print_config=print_config)
    port = free_port(host, port)
    with Engine(model, config) as engine:
        for item in adapter or []:
            name, separator, directory = item.partition("=")
            if not separator:
                raise ConfigError(f"--adapter {item!r} has no '='; write NAME=DIRECTORY.")
            engine.load_adapter(name, directory)
        app = create_app(engine, served_names=[engine.model_name], api_keys=api_key)
        run_server(app, host, port, lambda url: print(f"ready {url}", flush=True))
