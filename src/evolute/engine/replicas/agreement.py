"""What all replicas have in common, and how they come to have it: all of them, or none.

    agreement.change(replicas, do, undo) -> value    one call on all; undone where one fails
    agreement.ask(replicas, call) -> {replica: value or Failed}
    agreement.bring_up(replica)                      one that has just started
    agreement.adapters, base, config, is_paused      what was agreed on

A replica that can neither do a thing nor undo it is ended: the one that follows it starts with what
was agreed on. Weights are kept once, in Ray's object store.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolute.engine.config import EngineConfig
from evolute.engine.replicas.actor import Failed
from evolute.engine.replicas.cluster import Cluster
from evolute.engine.replicas.replica import Replica
from evolute.types import BackendError, EvoluteError, OutOfCapacity

logger = logging.getLogger(__name__)
CALL_S = 300.0  # as the engine's own commands


@dataclass(frozen=True, slots=True)
class Call:
    """A method of every engine. `args` may be references to Ray's object store."""

    ability: str
    args: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """Weights that all replicas have; `weights` is a reference, None: those of the model's file."""

    weights: Any
    version: int


class Agreement:
    """Changed by one caller at a time: the owner's lock is held."""

    def __init__(self, cluster: Cluster, config: EngineConfig) -> None:
        self.config, self.is_paused, self._is_settled = config, False, False
        self.base = Kept(None, 0)
        self.adapters: dict[str, Kept] = {}
        self._cluster = cluster

    def ask(
        self, replicas: Iterable[Replica], call: Call, timeout_s: float | None = None
    ) -> dict[Replica, Any]:
        """Who dies meanwhile has no entry, nor has who does not answer within `timeout_s`. Without
        one it is CALL_S, and who does not answer then is ended: nobody knows what it did."""
        ends_s = time.monotonic() + (timeout_s or CALL_S)
        asked = {one: self._begin(one, call) for one in replicas}
        found = {}
        for replica, answer in asked.items():
            try:
                left_s = max(ends_s - time.monotonic(), 0.01)
                found[replica] = self._cluster.ray.get(answer, timeout=left_s)
            except self._cluster.ray.exceptions.GetTimeoutError:
                logger.warning("replica %d did not answer %s", replica.index, call.ability)
                if timeout_s is None:
                    replica.kill()
            except self._cluster.ray.exceptions.RayActorError:
                continue
        if not found:
            raise no_replica()
        return found

    def change(self, replicas: Iterable[Replica], do: Call, undo: Call | None = None) -> Any:
        """What one replica answered, when all did it. Raises what one of them raised, and then
        nobody has done it."""
        found = self.ask(replicas, do)
        failed = {one: value.error for one, value in found.items() if isinstance(value, Failed)}
        if not failed:
            return next(iter(found.values()))
        done = [replica for replica in found if replica not in failed]
        if undo is not None and done:
            self._undo(done, undo)
        replica, error = next(iter(failed.items()))
        if not done:
            raise error
        text = f"{error} (replica {replica.index}; the others are as they were)"
        raise type(error)(text) if isinstance(error, EvoluteError) else error

    def bring_up(self, replica: Replica, config: EngineConfig) -> None:
        """`config` is in force there. Raises BackendError when it cannot be like the others."""
        if not self._is_settled:  # the first one decides what `auto` is
            self.config, self._is_settled = config, True
        ours, theirs = dataclasses.asdict(self.config), dataclasses.asdict(config)
        other = {name: value for name, value in ours.items() if theirs[name] != value}
        calls = [Call("apply_settings", (), other)] if other else []
        calls += [self.base_call(self.base)] if self.base.version or self.base.weights else []
        calls += [self.adapter_call(name, kept) for name, kept in self.adapters.items()]
        calls += [Call("pause")] if self.is_paused else []
        for call in calls:
            value = self._cluster.ray.get(self._begin(replica, call), timeout=CALL_S)
            if isinstance(value, Failed):
                raise BackendError(f"it cannot {call.ability}: {value.error}")

    def keep(self, weights: Any) -> Any:
        """A reference for `Kept`."""
        return self._cluster.ray.put(weights)

    @staticmethod
    def adapter_call(name: str, kept: Kept | None) -> Call:
        """To have this adapter, or (None) no longer."""
        if kept is None:
            return Call("unload_adapter", (name,))
        return Call("load_adapter", (name, kept.weights), {"version": kept.version})

    @staticmethod
    def base_call(kept: Kept) -> Call:
        if kept.weights is None:
            return Call("restore_base", (), {"version": kept.version})
        return Call("load_weights", (kept.weights,), {"version": kept.version})

    # -- internals -------------------------------------------------------------

    def _begin(self, replica: Replica, call: Call) -> Any:
        if call.ability in ("restore_base", "recent"):
            return getattr(replica.actor, call.ability).remote(**call.settings)
        return replica.actor.call.remote(call.ability, *call.args, **call.settings)

    def _undo(self, done: list[Replica], undo: Call) -> None:
        for replica, value in self.ask(done, undo).items():
            if isinstance(value, Failed):
                logger.error("replica %d starts anew: %s", replica.index, value.error)
                replica.kill()


def no_replica() -> OutOfCapacity:
    return OutOfCapacity("no replica lives now; they are being started anew. Try again.", 5.0)
