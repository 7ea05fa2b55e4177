"""The process that serves: one engine (or a fleet) behind HTTP.

    work(options)                                  alone
    python -m evolute.cli.serve_worker JSON --worker TEXT   as a supervisor's child

It reads no command line of its own, so a child starts without what parses one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evolute.cli.faults import exit_by

TRAIN = "train."


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many engines, and how requests find theirs."""

    replicas: int
    routing: str | None
    quantum: int | None
    address: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    model: str
    host: str
    port: int
    adapters: list[tuple[str, str]]  # (name, directory)
    api_keys: list[str] | None
    tenants: str | None  # a file
    admin_key: str | None
    max_in_flight: int
    requests_per_minute: int
    max_connections: int
    drain_s: float
    stall_s: float
    tool_format: str | None
    fleet: Fleet
    overrides: list[str]
    train: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Options:
        values = json.loads(text)
        fleet = Fleet(**values.pop("fleet"))
        adapters = [(name, directory) for name, directory in values.pop("adapters")]
        return cls(**values, fleet=fleet, adapters=adapters)


def main() -> None:
    """A supervisor's child."""
    options, _, worker = sys.argv[1:]
    exit_by(lambda: work(Options.from_json(options), worker))


def work(options: Options, worker: str = "") -> None:
    """Load and serve, alone or (`worker`) as a supervisor's child. The model loads on a thread
    while this one imports what speaks HTTP, which takes as long."""
    from evolute.cli.supervisor import Worker
    from evolute.engine import EngineConfig
    from evolute.engine.allocator import keep_little
    from evolute.types.ports import listen
    from evolute.types.settings import load

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    keep_little()
    own = Worker.of(worker) if worker else None
    config = load(EngineConfig, files=[], overrides=engine_words(options.overrides))
    training = _training(options, config)
    listener = own.listener if own else listen(options.host, options.port)
    if own:
        own.watch()
    with ThreadPoolExecutor(1) as beside:
        starting = beside.submit(_engine, options.model, config, options.fleet, training)
        try:
            serve_engine = _server(options, listener, own, training)
        except BaseException:
            with contextlib.suppress(Exception):
                starting.result().close()
            raise
        engine = starting.result()
    with engine:
        serve_engine(engine)


def say_ready(url: str) -> None:
    print("ready", url, flush=True)


# -- internals ---------------------------------------------------------------


def engine_words(overrides: list[str]) -> list[str]:
    """Those of --set that are the engine's; `train.` begins the training service's."""
    return [word for word in overrides if not word.startswith(TRAIN)]


def training_words(overrides: list[str]) -> list[str]:
    return [word.removeprefix(TRAIN) for word in overrides if word.startswith(TRAIN)]


def _training(options: Options, config: Any) -> Any:
    """Settings of the training service; None without --train. Raises ConfigError."""
    from evolute.types import ConfigError

    words = training_words(options.overrides)
    if not options.train:
        if words:
            raise ConfigError(f"--set {TRAIN}{words[0]} is of the training service; add --train.")
        return None
    if options.fleet.replicas != 1 or options.fleet.address is not None:
        raise ConfigError("--train needs its one engine in this process; leave --replicas out.")
    from evolute.train.tinker.settings import ServiceConfig, check_precision
    from evolute.types.settings import load

    check_precision(config.precision)
    return load(ServiceConfig, files=[], overrides=words)


def _server(
    options: Options, listener: Any, own: Any, training: Any = None
) -> Callable[[Any], None]:
    """All that needs no engine yet, so that bad options are told before one is loaded."""
    from evolute.server import Limits, Tenants
    from evolute.server import serve as run_server
    from evolute.server.journal import Journal, restore
    from evolute.types.ports import url_of

    calls = _tool_format(options.tool_format)
    known = Tenants.of(
        options.api_keys,
        file=options.tenants and Path(options.tenants),
        admin_key=options.admin_key,
    )
    limits = Limits(options.max_in_flight, options.requests_per_minute)
    journal = Journal(own.directory if own else None)
    restarts = own.restarts if own else 0
    how = {"stall_s": options.stall_s, "tool_format": calls, "restarts": restarts}
    from evolute.dashboard.live import live_router
    from evolute.engine.allocator import freeze_start
    from evolute.server import create_app

    def run(engine: Any) -> None:
        for name, directory in options.adapters:
            if name not in journal.adapters:
                engine.load_adapter(name, directory)
        _set_weights(engine, known.weights)
        restore(engine, journal)
        pages, names = [live_router(engine)], [engine.model_name]
        with contextlib.ExitStack() as stack:
            if training is not None:
                pages += stack.enter_context(_service(options, engine, training))
            app = create_app(
                engine,
                served_names=names,
                extra_routers=pages,
                tenants=known,
                limits=limits,
                journal=journal,
                **how,
            )
            freeze_start()
            run_server(
                app,
                listener,
                own.is_ready if own else partial(say_ready, url_of(listener)),
                drain_s=options.drain_s,
                max_connections=options.max_connections,
                is_alive=(lambda: engine.is_alive) if own else None,
            )

    return run


@contextlib.contextmanager
def _service(options: Options, engine: Any, training: Any) -> Iterator[list[Any]]:
    """The training API's routes, on the model that the engine was made of."""
    from evolute.models import load_model
    from evolute.train.tinker import Service, routers

    path = Path(options.model).expanduser()
    if not training.tokenizer and path.is_dir():
        training = dataclasses.replace(training, tokenizer=str(path.resolve()))
    names = (options.model, engine.model_name)
    with contextlib.closing(Service(engine, load_model(options.model), training, names)) as service:
        yield [routers(service)]


def _engine(model: str, config: Any, fleet: Fleet, training: Any = None) -> Any:
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
    if fleet.routing == "sticky":
        raise ConfigError(
            "--routing sticky keeps sessions, which requests of the server do not name; use d2lpm "
            "or cache_aware, which follow prefixes."
        )
    if fleet.quantum is not None and fleet.routing not in (None, "d2lpm"):
        raise ConfigError(f"--route-quantum is of d2lpm, but --routing is {fleet.routing!r}.")
    return ReplicatedEngine(model, config, ReplicaConfig(fleet.replicas, **chosen))


def _tool_format(name: str | None) -> Any:
    from evolute.lang.tools import ToolFormat
    from evolute.types import ConfigError

    if name not in (None, *ToolFormat):
        raise ConfigError(f"--tool-format {name!r} is not known; use hermes or json.")
    return None if name is None else ToolFormat(name)


def _set_weights(engine: Any, weights: dict[str, float]) -> None:
    """Shares of the tenants in the file; those given by --set stay beside them."""
    unequal = [f"{tenant}={weight}" for tenant, weight in weights.items() if weight != 1]
    if unequal:
        engine.apply_settings(tenant_weights=[*engine.config.tenant_weights, *unequal])


if __name__ == "__main__":
    main()
