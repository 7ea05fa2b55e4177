"""Weights from one rank to all others of a process group (gloo on CPUs, NCCL on GPUs).

    BroadcastSender(group).send(packed)                  on rank `source`
    BroadcastReceiver(group).receive(version, timeout_s) on every other
    OwnGroup(address, rank, size, ...)                   a group beside the default one
    open_store(host, timeout_s)                          where its ranks meet

The manifest goes first, so that a receiver knows what to make room for; then the bytes, in pieces.
A rank that does not take part is found by the group's own timeout.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from evolute.train.sync.wire import Manifest, Packed
from evolute.types import TrainingError, WireError

PIECE = 64 << 20


class OwnGroup:
    """Ranks that meet at a store of rank 0 (HOST:PORT), apart from any other group of theirs. It is
    opened by its first use, by all of them at once."""

    def __init__(
        self, address: str, rank: int, size: int, *, backend: str, timeout_s: float
    ) -> None:
        self._address, self._rank, self._size = address, rank, size
        self._backend, self._timeout = backend, timedelta(seconds=timeout_s)
        self._group: Any = None

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        """Raises RuntimeError when a rank does not take part."""
        if self._group is None:
            self._group = self._open()
        self._group.broadcast(tensor, source).wait()

    def _open(self) -> Any:
        host, _, port = self._address.rpartition(":")
        make: Any = dist  # whose stubs leave these out
        store = make.TCPStore(host, int(port), None, False, self._timeout)
        if self._backend == "nccl":
            options = make.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            return make.ProcessGroupNCCL(store, self._rank, self._size, options)
        return make.ProcessGroupGloo(store, self._rank, self._size, self._timeout)


def open_store(host: str, timeout_s: float) -> Any:
    """Where an OwnGroup meets, on a free port of this machine (`.port`); it lives as long as the
    object does."""
    make: Any = dist
    return make.TCPStore(host, 0, None, True, timedelta(seconds=timeout_s), wait_for_workers=False)


class BroadcastSender:
    """The rank that has the weights. `group` is an OwnGroup or one of torch.distributed, None its
    default one."""

    def __init__(self, group: Any = None, source: int = 0, device: str = "cpu") -> None:
        self._group, self._source, self._device = group, source, device

    def send(self, packed: Packed) -> None:
        """Raises TrainingError when a receiver is gone."""
        manifest = bytearray(packed.manifest.to_json().encode())
        try:
            self._broadcast(torch.tensor([len(manifest)], dtype=torch.int64))
            self._broadcast(torch.frombuffer(manifest, dtype=torch.uint8))
            if len(packed.data):
                whole = torch.frombuffer(packed.data, dtype=torch.uint8)
                for piece in torch.split(whole, PIECE):
                    self._broadcast(piece)
        except RuntimeError as error:
            raise _lost(packed.manifest.version, error) from error

    def _broadcast(self, tensor: torch.Tensor) -> None:
        _broadcast(tensor.to(self._device), self._source, self._group)


class BroadcastReceiver:
    """A rank that gets them."""

    def __init__(self, group: Any = None, source: int = 0, device: str = "cpu") -> None:
        self._group, self._source, self._device = group, source, device

    def receive(self, version: int, timeout_s: float) -> Packed:
        """The next weights. Raises TrainingError when the sender is gone (`timeout_s` is the
        group's, set when it was made), WireError for another version or torn bytes."""
        try:
            size = int(self._get(torch.zeros(1, dtype=torch.int64)))
            text = self._get(torch.zeros(size, dtype=torch.uint8))
            manifest = Manifest.from_json(bytes(text.numpy()))
            data = torch.zeros(manifest.num_bytes, dtype=torch.uint8)
            if manifest.num_bytes:
                pieces = [self._get(piece) for piece in torch.split(data, PIECE)]
                data = torch.cat(pieces)
        except RuntimeError as error:
            raise _lost(version, error) from error
        packed = Packed(manifest, memoryview(data.numpy().tobytes()))
        packed.check()
        if manifest.version != version:
            raise WireError(f"version {manifest.version} was sent where {version} was expected.")
        return packed

    def _get(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self._device)
        _broadcast(tensor, self._source, self._group)
        return tensor.cpu()


def _broadcast(tensor: torch.Tensor, source: int, group: Any) -> None:
    if isinstance(group, OwnGroup):
        group.broadcast(tensor, source)
    else:
        dist.broadcast(tensor, source, group=group)


def _lost(version: int, error: Exception) -> TrainingError:
    return TrainingError(
        f"the broadcast of weights {version} broke ({error}): a rank is gone or did not take part. "
        "Start the ranks anew and publish again."
    )
