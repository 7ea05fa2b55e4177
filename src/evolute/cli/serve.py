"""`evolute serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
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
    worker: Annotated[str, typer.Option(hidden=True)] = "",
    set_: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve a model; prints `ready http://HOST:PORT` when requests are accepted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    served = _pairs(adapter or [])
    if supervise and not worker and not print_config:
        raise typer.Exit(_supervise(host, port))
    who = (api_key, tenants, admin_key, max_in_flight, requests_per_minute)
    how = (max_connections, drain_s, stall_s, tool_format)
    fleet = _Fleet(replicas, routing, route_quantum, ray_address)
    options = _Options(model, host, port, served, *who, *how, fleet, set_, print_config)
    _work(options, worker)


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fleet:
    """How many engines, and how requests find theirs."""

    replicas: int
    routing: str | None
    quantum: int | None
    address: str | None


@dataclass(frozen=True, slots=True)
class _Options:
    """What the command line says."""

    model: str
    host: str
    port: int
    adapters: list[tuple[str, str]]  # (name, directory)
    api_keys: list[str] | None
    tenants: Path | None
    admin_key: str | None
    max_in_flight: int
    requests_per_minute: int
    max_connections: int
    drain_s: float
    stall_s: float
    tool_format: str | None
    fleet: _Fleet
    overrides: list[str] | None
    print_config: bool


def _supervise(host: str, port: int) -> int:
    """The exit code of children that run this same command."""
    from evolute.cli.supervisor import supervise
    from evolute.types.ports import listen

    command = [sys.executable, "-m", "evolute.cli.main", *sys.argv[1:]]
    return supervise(listen(host, port), command, _say_ready)


def _work(options: _Options, worker: str) -> None:
    """Load and serve, alone or (`worker`) as a supervisor's child."""
    from evolute.cli.supervisor import Worker
    from evolute.engine import EngineConfig
    from evolute.server import Limits, Tenants
    from evolute.server import serve as run_server
    from evolute.server.journal import Journal, restore
    from evolute.types.ports import listen, url_of

    own = Worker.of(worker) if worker else None
    calls = _tool_format(options.tool_format)
    config = settings(EngineConfig, [], options.overrides, print_config=options.print_config)
    known = Tenants.of(options.api_keys, file=options.tenants, admin_key=options.admin_key)
    limits = Limits(options.max_in_flight, options.requests_per_minute)
    listener = own.listener if own else listen(options.host, options.port)
    journal = Journal(own.directory if own else None)
    if own:
        own.watch()
    with _engine(options.model, config, options.fleet) as engine:
        for name, directory in options.adapters:
            if name not in journal.adapters:
                engine.load_adapter(name, directory)
        _set_weights(engine, known.weights)
        restore(engine, journal)
        app = _app(
            engine,
            tenants=known,
            limits=limits,
            stall_s=options.stall_s,
            tool_format=calls,
            journal=journal,
            restarts=own.restarts if own else 0,
        )
        run_server(
            app,
            listener,
            own.is_ready if own else partial(_say_ready, url_of(listener)),
            drain_s=options.drain_s,
            max_connections=options.max_connections,
            is_alive=(lambda: engine.is_alive) if own else None,
        )


def _say_ready(url: str) -> None:
    print("ready", url, flush=True)


def _app(engine: Any, **given: Any) -> Any:
    from evolute.dashboard.live import live_router
    from evolute.server import create_app

    pages = [live_router(engine)]
    return create_app(engine, served_names=[engine.model_name], extra_routers=pages, **given)


def _engine(model: str, config: Any, fleet: _Fleet) -> Any:
    """One engine in this process, or several in others. Raises ConfigError."""
    from evolute.engine import Engine
    from evolute.types import ConfigError

    given = {"routing": fleet.routing, "quantum": fleet.quantum, "address": fleet.address}
    given = {name: value for name, value in given.items() if value is not None}
    if fleet.replicas == 1 and fleet.address is None:
        if given:
            options = {"routing": "--routing", "quantum": "--route-quantum"}
            named = " and ".join(options[name] for name in given)
            raise ConfigError(f"{named} needs more than one engine; give --replicas 2 or more.")
        return Engine(model, config)
    from evolute.engine.replicas import ReplicaConfig, ReplicatedEngine

    chosen: Any = given
    if fleet.quantum is not None and fleet.routing not in (None, "d2lpm"):
        raise ConfigError(f"--route-quantum is of d2lpm, but --routing is {fleet.routing!r}.")
    return ReplicatedEngine(model, config, ReplicaConfig(fleet.replicas, **chosen))


def _tool_format(name: str | None) -> Any:
    from evolute.lang.tools import ToolFormat
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
