"""`evolute serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evolute.cli.options import Model, PrintConfig, Set

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
    replicas: Annotated[int, typer.Option(help="engines, each a process of Ray's; 1: none")] = 1,
    routing: Annotated[
        str | None, typer.Option(help="d2lpm, cache_aware, least_loaded or round_robin")
    ] = None,
    route_quantum: Annotated[
        int | None, typer.Option(help="of d2lpm: service of a tenant a replica may get ahead")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="of a Ray cluster; a local one is started without it")
    ] = None,
    supervise: Annotated[
        bool,
        typer.Option(help="start the serving process again when it dies, and answer meanwhile"),
    ] = True,
    train: Annotated[bool, typer.Option(help="the Tinker API; --set train.KEY=VALUE")] = False,
    set_: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve a model; prints `ready http://HOST:PORT` when requests are accepted."""
    from evolute.cli.serve_worker import Fleet, Options, work

    if print_config:
        _print(set_ or [], train)
    file = str(tenants) if tenants else None
    who = (api_key, file, admin_key, max_in_flight, requests_per_minute)
    how = (max_connections, drain_s, stall_s, tool_format)
    fleet = Fleet(replicas, routing, route_quantum, ray_address)
    options = Options(
        model, host, port, _pairs(adapter or []), *who, *how, fleet, set_ or [], train
    )
    if not supervise:
        return work(options)
    raise typer.Exit(_supervise(options))


# -- internals ---------------------------------------------------------------


def _print(words: list[str], is_training: bool) -> None:
    """The settings in force; ends the program."""
    from evolute.cli.serve_worker import engine_words, training_words
    from evolute.engine import EngineConfig
    from evolute.types.settings import load, to_toml

    chosen = load(EngineConfig, overrides=engine_words(words))
    if not is_training:
        print(to_toml(chosen), end="")
        raise typer.Exit
    from evolute.train.tinker.settings import ServiceConfig

    service = load(ServiceConfig, overrides=training_words(words))
    print(to_toml(chosen), "", "[train]", to_toml(service), sep="\n", end="")
    raise typer.Exit


def _supervise(options: Any) -> int:
    """The exit code of children that serve with these options."""
    from evolute.cli.serve_worker import say_ready
    from evolute.cli.supervisor import supervise
    from evolute.types.ports import listen

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    command = [sys.executable, "-m", "evolute.cli.serve_worker", options.to_json()]
    return supervise(listen(options.host, options.port), command, say_ready)


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
