"""`evolute serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
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
    set_: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve a model; prints `ready http://HOST:PORT` when requests are accepted."""
    from evolute.cli.options import free_port
    from evolute.dashboard.live import live_router
    from evolute.engine import EngineConfig
    from evolute.server import Limits, Tenants, create_app
    from evolute.server import serve as run_server

    calls = _tool_format(tool_format)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = settings(EngineConfig, [], set_, print_config=print_config)
    known = Tenants.of(api_key, file=tenants, admin_key=admin_key)
    limits = Limits(max_in_flight, requests_per_minute)
    port = free_port(host, port)
    with _engine(model, config, replicas, routing, route_quantum, ray_address) as engine:
        _load_adapters(engine, adapter or [])
        _set_weights(engine, known.weights)
        app = create_app(
            engine,
            served_names=[engine.model_name],
            tenants=known,
            limits=limits,
            stall_s=stall_s,
            tool_format=calls,
            extra_routers=[live_router(engine)],
        )
        ready = partial(print, "ready", flush=True)
        run_server(app, host, port, ready, drain_s=drain_s, max_connections=max_connections)


def _engine(
    model: str,
    config: Any,
    replicas: int,
    routing: str | None,
    quantum: int | None,
    address: str | None,
) -> Any:
    """One engine in this process, or several in others. Raises ConfigError."""
    from evolute.engine import Engine
    from evolute.types import ConfigError

    given = {"routing": routing, "quantum": quantum, "address": address}
    given = {name: value for name, value in given.items() if value is not None}
    if replicas == 1 and address is None:
        if given:
            options = {"routing": "--routing", "quantum": "--route-quantum"}
            named = " and ".join(options[name] for name in given)
            raise ConfigError(f"{named} needs more than one engine; give --replicas 2 or more.")
        return Engine(model, config)
    from evolute.engine.replicas import ReplicaConfig, ReplicatedEngine

    chosen: Any = given
    if quantum is not None and routing not in (None, "d2lpm"):
        raise ConfigError(f"--route-quantum is of d2lpm, but --routing is {routing!r}.")
    return ReplicatedEngine(model, config, ReplicaConfig(replicas, **chosen))


def _tool_format(name: str | None) -> Any:
    from evolute.server.tools import ToolFormat
    from evolute.types import ConfigError

    if name not in (None, *ToolFormat):
        raise ConfigError(f"--tool-format {name!r} is not known; use hermes or json.")
    return None if name is None else ToolFormat(name)


def _load_adapters(engine: Any, items: list[str]) -> None:
    from evolute.types import ConfigError

    for item in items:
        name, separator, directory = item.partition("=")
        if not separator:
            raise ConfigError(f"--adapter {item!r} has no '='; write NAME=DIRECTORY.")
        engine.load_adapter(name, directory)


def _set_weights(engine: Any, weights: dict[str, float]) -> None:
    """Shares of the tenants in the file; those given by --set stay beside them."""
    unequal = [f"{tenant}={weight}" for tenant, weight in weights.items() if weight != 1]
    if unequal:
        engine.apply_settings(tenant_weights=[*engine.config.tenant_weights, *unequal])
