"""Weights from one rank to all others of a process group (gloo on CPUs, NCCL on GPUs).

    BroadcastSender(group).send(packed)                  on rank `source`
    BroadcastReceiver(group).receive(version, timeout_s) on every other

The manifest goes first, so that a receiver knows what to make room for; then the bytes, in pieces.
A rank that does not take part is found by the group's own timeout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from evolute.train.sync.wire import Manifest, Packed
from evolute.types import TrainingError, WireError

PIECE = 64 << 20


class BroadcastSender:
    """The rank that has the weights. `group` None is the default group."""

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
        dist.broadcast(tensor.to(self._device), self._source, group=self._group)


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
        dist.broadcast(tensor, self._source, group=self._group)
        return tensor.cpu()


def _lost(version: int, error: Exception) -> TrainingError:
    return TrainingError(
        f"the broadcast of weights {version} broke ({error}): a rank is gone or did not take part. "
        "Start the ranks anew and publish again."
    )
