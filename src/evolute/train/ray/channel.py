"""The ways of weights over Ray: control messages are actor calls, the bytes go as ever.

    Spec(way, place, ...)            what both ends must know
    channels_to(engines, spec)       rank 0's end: (channels, sender) for `publish_remotely`
    Ends.receiver(spec, place)       an engine's end, kept from one publication to the next

A broadcast needs a process group of rank 0 and the engines; it is made anew when the set of engines
has changed, and its name tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evolute.train.settings_ray import Way
from evolute.train.sync import (
    BroadcastReceiver,
    BroadcastSender,
    DeltaReceiver,
    DeltaSender,
    OwnGroup,
    Receiver,
    Sender,
    SharedMemoryReceiver,
    SharedMemorySender,
)
from evolute.train.sync.broadcast import open_store
from evolute.types import ConfigError

GET_S = 30.0  # for an answer that is ready


@dataclass(frozen=True, slots=True)
class Spec:
    """One way. `place` is a file, a folder, or where a group meets; `members` tells sets of engines
    apart."""

    way: Way
    place: str
    timeout_s: float
    base_every: int = 16
    members: str = ""
    size: int = 0
    rank: int = 0
    name: str | None = None  # of the adapter


class RayChannel:
    """One engine actor, used like a `Connection`."""

    def __init__(self, actor: Any, spec: Spec) -> None:
        import ray

        self._ray: Any = ray
        self._actor, self._spec = actor, spec
        self._answer: Any = None

    def send_bytes(self, buf: bytes, /) -> None:
        self._answer = self._actor.attend.remote(buf, self._spec)

    def poll(self, timeout: float, /) -> bool:
        ready, _ = self._ray.wait([self._answer], timeout=timeout)
        return bool(ready)

    def recv_bytes(self) -> bytes:
        try:
            found: bytes = self._ray.get(self._answer, timeout=GET_S)
        except self._ray.exceptions.RayActorError as error:
            raise EOFError(str(error).strip().splitlines()[0]) from error
        return found


class Ends:
    """Senders or receivers of one process, by what they belong to."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Any] = {}
        self._store: Any = None

    def sender(self, spec: Spec) -> tuple[Sender, Spec]:
        """With the spec that the engines get."""
        key = (spec.way, spec.place, spec.members)
        if key not in self._found:
            self._found = {key: self._make_sender(spec)}
        found: tuple[Sender, Spec] = self._found[key]
        return found[0], replace(spec, place=found[1].place)

    def receiver(self, spec: Spec) -> Receiver:
        key = (spec.way, spec.place, spec.members)
        if key not in self._found:
            self._found = {key: _receiver(spec)}
        found: Receiver = self._found[key]
        return found

    # -- internals ---------------------------------------------------------------

    def _make_sender(self, spec: Spec) -> tuple[Sender, Spec]:
        if spec.way == "delta":
            return Once(DeltaSender(Path(spec.place), base_every=spec.base_every)), spec
        if spec.way == "shared_memory":
            return SharedMemorySender(Path(spec.place)), spec
        if spec.way != "broadcast":
            raise ConfigError(f"the way {spec.way!r} has no sender on Ray.")
        spec = replace(spec, place=self._meeting(spec))
        return BroadcastSender(_group(spec, 0)), spec

    def _meeting(self, spec: Spec) -> str:
        """A store of ours on a port of its own, which lives as long as the group."""
        from evolute.train.ray.rank import node_address

        host = node_address()
        self._store = open_store(host, spec.timeout_s)
        return f"{host}:{self._store.port}"


class Once:
    """Writes a version once, however often it is published: the files stay."""

    def __init__(self, sender: DeltaSender) -> None:
        self._sender, self._last = sender, -1

    def send(self, packed: Any) -> None:
        if packed.manifest.version != self._last:
            self._sender.send(packed)
            self._last = packed.manifest.version


_ends = Ends()  # of this process: rank 0


def channels_to(engines: Sequence[Any], spec: Spec) -> tuple[list[RayChannel], Sender]:
    """For `publish_remotely`."""
    sender, told = _ends.sender(replace(spec, size=len(engines) + 1))
    channels = [RayChannel(actor, replace(told, rank=i + 1)) for i, actor in enumerate(engines)]
    return channels, sender


# -- internals ---------------------------------------------------------------


def _receiver(spec: Spec) -> Receiver:
    if spec.way == "delta":
        return DeltaReceiver(Path(spec.place))
    if spec.way == "shared_memory":
        return SharedMemoryReceiver(Path(spec.place))
    return BroadcastReceiver(_group(spec, spec.rank))


def _group(spec: Spec, rank: int) -> OwnGroup:
    return OwnGroup(spec.place, rank, spec.size, backend="gloo", timeout_s=spec.timeout_s)
