"""`evolute serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
    api_key: Annotated[
        list[str] | None, typer.Option(help="KEY, or TENANT=KEY; repeatable")
    ] = None,
    tenants: Annotated[
        Path | None, typer.Option(help="TOML file of tenants: keys, weights, limits")
    ] = None,
    admin_key: Annotated[
        str | None, typer.Option(help="key for weights, adapters, cache and pauses")
    ] = None,
    max_in_flight: Annotated[int, typer.Option(help="requests of one tenant; 0: no limit")] = 0,
    requests_per_minute: Annotated[int, typer.Option(help="of one tenant; 0: no limit")] = 0,
    max_connections: Annotated[int, typer.Option(help="open at once")] = 4096,
    drain_s: Annotated[float, typer.Option(help="for requests in flight after SIGTERM")] = 30.0,
    stall_s: Annotated[
        float, typer.Option(help="an engine with work and no step for so long is unhealthy")
    ] = 60.0,
    tool_format: Annotated[
        str | None, typer.Option(help="how the model writes tool calls: hermes or json")
    ] = None,
    supervise: Annotated[
        bool,
        typer.Option(help="start the serving process again when it dies, and answer meanwhile"),
    ] = True,
    worker: Annotated[str, typer.Option(hidden=True)] = "",
    set_: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve a model; prints `ready http://HOST:PORT` when requests are accepted."""
    from evolute.types.ports import listen, url_of

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    served = _pairs(adapter or [])
    ready = partial(print, "ready", flush=True)
    if supervise and not worker and not print_config:
        from evolute.cli.supervisor import supervise as run

        command = [sys.executable, "-m", "evolute.cli.main", *sys.argv[1:]]
        raise typer.Exit(run(listen(host, port), command, ready))

    from evolute.cli.supervisor import Worker
    from evolute.dashboard.live import live_router
    from evolute.engine import Engine, EngineConfig
    from evolute.server import Limits, Tenants, create_app
    from evolute.server import serve as run_server
    from evolute.server.journal import Journal, restore

    own = Worker.of(worker) if worker else None
    calls = _tool_format(tool_format)
    config = settings(EngineConfig, [], set_, print_config=print_config)
    known = Tenants.of(api_key, file=tenants, admin_key=admin_key)
    limits = Limits(max_in_flight, requests_per_minute)
    listener = own.listener if own else listen(host, port)
    journal = Journal(own.directory if own else None)
    if own:
        own.watch()
    with Engine(model, config) as engine:
        for name, directory in served:
            if name not in journal.adapters:
                engine.load_adapter(name, directory)
        _set_weights(engine, known.weights)
        restore(engine, journal)
        app = create_app(
            engine,
            served_names=[engine.model_name],
            tenants=known,
            limits=limits,
            stall_s=stall_s,
            tool_format=calls,
            extra_routers=[live_router(engine)],
            journal=journal,
            restarts=own.restarts if own else 0,
        )
        run_server(
            app,
            listener,
            own.is_ready if own else partial(ready, url_of(listener)),
            drain_s=drain_s,
            max_connections=max_connections,
            is_alive=(lambda: engine.is_alive) if own else None,
        )


def _tool_format(name: str | None) -> Any:
    from evolute.server.tools import ToolFormat
    from evolute.types import ConfigError

    if name not in (None, *ToolFormat):
        raise ConfigError(f"--tool-format {name!r} is not known; use hermes or json.")
    return None if name is None else ToolFormat(name)


def _pairs(items: list[str]) -> list[tuple[str, str]]:
    """(name, directory) of each --adapter."""
    from evolute.types import ConfigError

    found = []
    for item in items:
        name, separator, directory = item.partition("=")
        if not separator:
            raise ConfigError(f"--adapter {item!r} has no '='; write NAME=DIRECTORY.")
        found.append((name, directory))
    return found


def _set_weights(engine: Any, weights: dict[str, float]) -> None:
    """Shares of the tenants in the file; those given by --set stay beside them."""
    unequal = [f"{tenant}={weight}" for tenant, weight in weights.items() if weight != 1]
    if unequal:
        engine.apply_settings(tenant_weights=[*engine.config.tenant_weights, *unequal])
