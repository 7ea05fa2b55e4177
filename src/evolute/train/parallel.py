"""Who else computes this batch? The seam by which one update is spread over ranks.

    Peers                    protocol: rank, size, share, add, union, total, agree
    Alone()                  one process: everything is its own
    ProcessPeers(timeout_s)  ranks of torch.distributed's default group (gloo, NCCL)
    spread(samples, budget, peers) -> Share(mine, idle)      micro-batches of this rank
    full(tensor), like(tensor, whole)        tensors that may be divided over the ranks
    shares(sizes, size)      which rank computes which of them

Weights are baked into tokens before, so that the batch's gradient is the plain sum of its
micro-batches' and every rank holds that sum once `add` has returned. Whatever follows, clipping and
the optimizer, is the same computation of the same numbers everywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from evolute.train.rollouts.packing import Credited, MicroBatch, PackedGroup, pack
from evolute.types import EvoluteError, TrainingError

T = TypeVar("T")
BUCKET = 16 << 20  # numbers that travel together
LARGEST = ("ratio_max", "difference_max")  # sums of which the largest counts
COMMON = ("grad_norm", "lr", "updates")  # every rank has the whole already


@dataclass(frozen=True, slots=True)
class Share:
    """`idle` are computed for company where ranks need each other in every pass: they weigh
    nothing, and nothing of them counts."""

    mine: list[MicroBatch]
    idle: list[MicroBatch]


@runtime_checkable
class Peers(Protocol):
    """All ranks call the same methods in the same order."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def share(self, batches: Sequence[MicroBatch]) -> Share:
        """What this rank computes of a list that all ranks have alike."""
        ...

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes its sum over all ranks, in place."""
        ...

    def union(self, found: dict[int, Tensor]) -> dict[int, Tensor]:
        """What all ranks found, by number; no two found the same."""
        ...

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Figures of a whole update of this rank's."""
        ...

    def agree(self, error: Exception | None) -> None:
        """Raise on every rank when one of them has failed, and say which."""
        ...

    def keep_step(self, error: Exception | None) -> None:
        """As `agree`, within a pass that ranks may do by themselves; then only the one raises."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def share(self, batches: Sequence[MicroBatch]) -> Share:
        return Share(list(batches), [])

    def add(self, tensors: Sequence[Tensor]) -> None:
        pass

    def union(self, found: dict[int, Tensor]) -> dict[int, Tensor]:
        return found

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)

    def agree(self, error: Exception | None) -> None:
        if error is not None:
            raise error

    keep_step = agree


class ProcessPeers:
    """The default group of torch.distributed, whose timeout bounds every wait. `in_step`: ranks
    hold parts of the weights, so that each pass of one needs a pass of every other."""

    def __init__(self, *, in_step: bool = False) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._in_step = in_step

    def share(self, batches: Sequence[MicroBatch]) -> Share:
        sizes = [_size(batch) for batch in batches]
        each = shares(sizes, self.size)
        mine = [batches[i] for i in each[self.rank]]
        if not self._in_step or not batches:
            return Share(mine, [])
        missing = max(map(len, each)) - len(mine)
        return Share(mine, [_weightless(min(batches, key=_size))] * missing)

    def add(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            self._reduce(flat, dist.ReduceOp.SUM)
            for tensor, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket])):
                tensor.detach().copy_(part.view(tensor.shape))

    def union(self, found: dict[int, Tensor]) -> dict[int, Tensor]:
        whole: dict[int, Tensor] = {}
        for part in self._objects(found):
            whole |= part
        return whole

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        each = self._objects(dict(sums))
        names = sorted({name for one in each for name in one})
        made = {}
        for name in names:
            values = [one.get(name, 0.0) for one in each]
            if name in COMMON:
                made[name] = values[0]
            else:
                made[name] = max(values) if name in LARGEST else sum(values)
        return made

    def agree(self, error: Exception | None) -> None:
        told = self._objects(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(told):
            if text is not None:
                raise TrainingError(f"trainer rank {rank} failed, so nobody goes on: {text}")

    def keep_step(self, error: Exception | None) -> None:
        if self._in_step:
            self.agree(error)
        elif error is not None:
            raise error

    # -- internals ---------------------------------------------------------------

    def _reduce(self, tensor: Tensor, op: Any) -> None:
        try:
            dist.all_reduce(tensor, op)
        except RuntimeError as error:
            raise _lost(self.rank, error) from error

    def _objects(self, mine: T) -> list[T]:
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, mine)
        except RuntimeError as error:
            raise _lost(self.rank, error) from error
        return found


def shares(sizes: Sequence[int], size: int) -> list[list[int]]:
    """Places of a list by rank: largest first, each to the rank that has the least so far. The
    places of a rank are in ascending order, and the same on every machine."""
    heap = [(0, rank) for rank in range(size)]
    found: list[list[int]] = [[] for _ in range(size)]
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, rank = heapq.heappop(heap)
        found[rank].append(place)
        heapq.heappush(heap, (load + sizes[place], rank))
    return [sorted(places) for places in found]


def spread(samples: Sequence[Credited], budget: int, peers: Peers) -> Share:
    """Micro-batches of at most `budget` tokens, of which no rank has many more than another: with
    several ranks they are made smaller, so that each has as many rounds as the others."""
    batches = pack(samples, budget)
    if peers.size > 1 and batches:
        total = sum(map(_size, batches))
        rounds = -(-total // (peers.size * budget))
        longest = max(len(c.sample.prompt_ids) + len(c.sample.response_ids) for c in samples)
        batches = pack(samples, min(budget, max(longest, -(-total // (peers.size * rounds)))))
    return peers.share(batches)


def full(tensor: Tensor) -> Tensor:
    """A whole tensor of one that may be divided over the ranks, which all call this."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole


def like(tensor: Tensor, whole: Tensor) -> Tensor:
    """`whole`, divided as `tensor` is; every rank has all of it already."""
    if not hasattr(tensor, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    divided: Any = tensor
    return distribute_tensor(whole, divided.device_mesh, divided.placements, src_data_rank=None)


# -- internals ---------------------------------------------------------------


def _size(batch: MicroBatch) -> int:
    return sum(group.num_tokens for group in batch)


def _weightless(batch: MicroBatch) -> MicroBatch:
    return tuple(
        PackedGroup(group.prompt, tuple(member.scaled(0.0) for member in group.members))
        for group in batch
    )


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one type, at most BUCKET numbers together."""
    found: list[list[Tensor]] = []
    used = BUCKET
    for tensor in tensors:
        if used + tensor.numel() > BUCKET or found[-1][0].dtype != tensor.dtype:
            found.append([])
            used = 0
        found[-1].append(tensor)
        used += tensor.numel()
    return found


def _lost(rank: int, error: Exception) -> EvoluteError:
    return TrainingError(
        f"trainer rank {rank} waited in vain for the other ranks ({error}): one of them is gone. "
        "The step was not applied; run the same command again to resume."
    )
