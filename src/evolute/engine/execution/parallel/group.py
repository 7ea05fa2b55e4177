"""Sums and gathers over the ranks: torch.distributed with gloo on CPUs, NCCL on GPUs.

    listen() -> (store, port)                       rank 0: rendezvous on loopback, any free port
    join(port, rank, size, device, timeout_s)       another rank's store
    TorchGroup(store, rank, size, device, timeout_s)    a `Group` of `models/lora_shards.py`

The group is not torch's default one, so that an engine can live beside others and beside a
trainer. Imported only where tensor_parallel > 1.
"""

from __future__ import annotations

import datetime
import os
import socket
from typing import Any

import torch
import torch.distributed
from torch import Tensor

HOST = "127.0.0.1"
dist: Any = torch.distributed  # its classes are compiled and have no types


def listen(timeout_s: float) -> tuple[Any, int]:
    """The store through which ranks find each other, and its port. Bound to loopback only."""
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        port = int(server.getsockname()[1])
        descriptor = os.dup(server.fileno())
    store = dist.TCPStore(
        HOST,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=timeout_s),
        master_listen_fd=descriptor,
    )
    return store, port


def join(port: int, timeout_s: float) -> Any:
    timeout = datetime.timedelta(seconds=timeout_s)
    return dist.TCPStore(HOST, port, timeout=timeout, wait_for_workers=False)


class TorchGroup:
    """Collectives that raise RuntimeError when a rank is gone or `timeout_s` have passed."""

    def __init__(
        self, store: Any, rank: int, size: int, device: torch.device, timeout_s: float
    ) -> None:
        """Waits for all ranks, at most `timeout_s`."""
        self.rank, self.size = rank, size
        self.sent_floats = 0.0  # by this rank, as a ring sends them
        self._store = store  # it must live as long as the group
        timeout = datetime.timedelta(seconds=timeout_s)
        self._backend = (_nccl if device.type == "cuda" else _gloo)(store, rank, size, timeout)
        self.all_reduce(torch.zeros(1, device=device))
        self.sent_floats = 0.0

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place where `x` is contiguous."""
        x = x.contiguous()
        self.sent_floats += 2 * (self.size - 1) / self.size * x.numel()
        if x.numel():
            self._backend.allreduce([x]).wait()
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        self.sent_floats += (self.size - 1) * x.numel()
        out = x.new_empty(self.size * x.numel())
        if x.numel():
            self._backend._allgather_base(out, x.flatten()).wait()
        return out.view(self.size, *x.shape)

    def gather(self, x: Tensor) -> list[Tensor]:
        """At rank 0 what every rank gave, all of one shape; elsewhere nothing."""
        x = x.contiguous()
        if self.rank:
            self.sent_floats += x.numel()
        outs = [torch.empty_like(x) for _ in range(self.size)] if self.rank == 0 else []
        if x.numel():
            options = dist.GatherOptions()
            options.rootRank = 0
            self._backend.gather([outs] if outs else [], [x], options).wait()
        return outs

    def abort(self) -> None:
        """Make collectives in progress return; for NCCL, whose kernels wait for ever."""
        abort: Any = getattr(self._backend, "abort", None)
        if isinstance(self._backend, getattr(dist, "ProcessGroupNCCL", ())) and abort:
            abort()


# -- internals ---------------------------------------------------------------


def _gloo(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._timeout, options._threads = timeout, 1
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=HOST)]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> Any:
    """On a timeout communicators are aborted, and the process goes on to say why."""
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    torch.cuda.set_device(rank)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)
