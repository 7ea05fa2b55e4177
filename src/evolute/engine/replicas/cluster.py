"""Ray, as far as replicas need it: connect, start an actor, and say clearly what is missing.

    cluster = Cluster(address, num_cpus)     None: an instance of our own, local to this machine
    cluster.start_actor(cls, args, num_cpus, **options) -> handle;  follow(actor), kill(actor)
    cluster.close()

The only place that imports Ray. An instance of our own has no dashboard, and ends with this
process; one that the process had already is used and left running.
"""

from __future__ import annotations

import logging
from typing import Any

from evolute.types import ConfigError

logger = logging.getLogger(__name__)
UNREAD = 16  # batches that may lie unread before the actor waits, and puts more into the next


class Cluster:
    """A connection to Ray. Raises ConfigError when there can be none."""

    def __init__(self, address: str | None, num_cpus: int, what: str = "replicas") -> None:
        self.ray = _import(what)
        self.is_ours = not self.ray.is_initialized()
        if not self.is_ours and address is not None:
            raise ConfigError(
                "this process is connected to Ray already; leave the address out to use that "
                "connection, or call ray.shutdown() first."
            )
        if self.is_ours:
            self._connect(address, num_cpus)
            self._hush()

    def start_actor(self, cls: type, args: tuple[Any, ...], num_cpus: int, **options: Any) -> Any:
        """A handle at once; the actor comes when there is room for it. Ray restarts nothing: what
        a new one must know is ours to tell. `options` are Ray's; without a scheduling strategy
        actors are spread over the nodes."""
        options = {"scheduling_strategy": "SPREAD", **options}
        make = self.ray.remote(num_cpus=num_cpus, max_restarts=0, **options)
        return make(cls).remote(*args)

    def follow(self, actor: Any) -> Any:
        """The stream of its news."""
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": UNREAD}
        return actor.news.options(**options).remote()

    def kill(self, actor: Any) -> None:
        """End its process now. Of no effect on one that has ended."""
        self.ray.kill(actor, no_restart=True)

    def close(self) -> None:
        if self.is_ours:
            self.ray.shutdown()

    # -- internals -------------------------------------------------------------

    def _hush(self) -> None:
        """Ray tells of deaths on stdout and has no switch for it; results go there, and deaths
        are logged where they are noticed."""
        worker: Any = getattr(self.ray._private, "worker", None)
        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = _log

    def _connect(self, address: str | None, num_cpus: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        local = {"num_cpus": num_cpus, "include_dashboard": False}
        try:
            if address is None:
                self.ray.init(address="local", **local, **quiet)
            else:
                self.ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = "a local Ray" if address is None else f"Ray at {address!r}"
            raise ConfigError(
                f"no connection to {where}: {error}. Start a cluster with `ray start --head`, or "
                "leave the address out."
            ) from error


def _log(data: dict[str, Any], ignore_prefix: bool) -> None:
    logger.debug("ray: %s", " ".join(map(str, data.get("lines", ()))))


def _import(what: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"{what} need Ray, which is not installed; run `pip install evolute[ray]`, or do "
            "without them: one engine, in one process."
        ) from error
    return ray
