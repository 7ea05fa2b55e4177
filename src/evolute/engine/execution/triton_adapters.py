"""Where do the kernels find an adapter? A table on the GPU: blocks of its floats, ranks, scale.

    AdapterTable(num_layers, memory, block)   .set(index, packed, blocks), .drop(index)
    table.slots(adapter) -> rows of the table for the sequences of a step, -1 for none
    table.pool                                what kernels read
    Arena(device)                             blocks of their own for adapters that share no pages

Tables grow by doubling, so they seldom move; `moves` counts it, and with it the arena's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evolute.engine.execution.batch import Int32
from evolute.kernels.reference import AdapterPool
from evolute.models import PackedLora
from evolute.models.lora import MODULES
from evolute.types import BackendError

ARENA_BLOCK = 4096  # floats
MIN_RANK = 16  # what kernels take at once


class AdapterTable:
    """Invariant: slot s is free, or of one adapter, whose blocks are in row s."""

    def __init__(self, num_layers: int, memory: Tensor, block: int) -> None:
        self.memory, self._block = memory, block
        self.moves = 0
        self._slots: dict[int, int] = {}
        self._ranks: dict[int, int] = {}
        self._blocks = torch.zeros((1, 1), dtype=torch.int64, device=memory.device)
        shape = (1, num_layers * len(MODULES), 3)
        self._parts = torch.zeros(shape, dtype=torch.int64, device=memory.device)
        self._scale = torch.zeros(1, device=memory.device)

    @property
    def max_rank(self) -> int:
        """A power of two, so that it seldom changes."""
        top = max(self._ranks.values(), default=0)
        return max(MIN_RANK, 1 << (top - 1).bit_length()) if top else 0

    @property
    def pool(self) -> AdapterPool:
        return AdapterPool(
            self.memory, self._block, self._blocks, self._parts, self._scale, self.max_rank
        )

    def set(self, index: int, packed: PackedLora, blocks: NDArray[np.int64]) -> None:
        """Float f of the adapter is memory[blocks[f // block] + f % block]."""
        slot = self._slots.get(index)
        if slot is None:
            taken = set(self._slots.values())
            slot = next(s for s in range(len(taken) + 1) if s not in taken)
        self._grow(slot + 1, len(blocks))
        parts = np.zeros(tuple(self._parts.shape[1:]), np.int64)
        for part in packed.parts:
            row = part.layer * len(MODULES) + MODULES.index(part.module)
            parts[row] = part.rank, part.a, part.b
        self._blocks[slot, : len(blocks)] = torch.from_numpy(blocks).to(self._blocks.device)
        self._parts[slot] = torch.from_numpy(parts).to(self._parts.device)
        self._scale[slot] = packed.scale
        self._slots[index] = slot
        self._ranks[index] = max((part.rank for part in packed.parts), default=0)

    def drop(self, index: int) -> None:
        self._slots.pop(index, None)
        self._ranks.pop(index, None)

    def slots(self, adapter: Int32) -> Int32:
        """Raises BackendError for an adapter that is not there."""
        try:
            found = [-1 if index < 0 else self._slots[index] for index in adapter.tolist()]
        except KeyError as error:
            raise BackendError(f"adapter {error} is not loaded; set it before its step.") from None
        return np.array(found, np.int32)

    # -- internals -----------------------------------------------------------

    def _grow(self, slots: int, blocks: int) -> None:
        have = self._blocks.shape
        wanted = (_up(slots, have[0]), _up(blocks, have[1]))
        if wanted == tuple(have):
            return
        self.moves += 1
        self._blocks = _larger(self._blocks, wanted)
        self._parts = _larger(self._parts, (wanted[0], *self._parts.shape[1:]))
        self._scale = _larger(self._scale, (wanted[0],))


class Arena:
    """Memory for adapters alone; grows by doubling and is never given back."""

    def __init__(self, device: torch.device) -> None:
        self.memory = torch.zeros(ARENA_BLOCK, device=device)
        self.moves = 0
        self._free = [0]
        self._held: dict[int, list[int]] = {}

    def put(self, index: int, packed: PackedLora) -> NDArray[np.int64]:
        """Copy an adapter in place of its old version. Returns where its blocks begin."""
        self.drop(index)
        count = -(-len(packed.flat) // ARENA_BLOCK)
        self._grow(count)
        blocks = [self._free.pop() for _ in range(count)]
        self._held[index] = blocks
        rest = torch.from_numpy(packed.flat)
        for block in blocks:
            part, rest = rest[:ARENA_BLOCK], rest[ARENA_BLOCK:]
            self.memory[block * ARENA_BLOCK :][: len(part)] = part.to(self.memory.device)
        return np.array(blocks, np.int64) * ARENA_BLOCK

    def drop(self, index: int) -> None:
        self._free += self._held.pop(index, [])

    def _grow(self, count: int) -> None:
        have = len(self.memory) // ARENA_BLOCK
        size = have
        while size - have + len(self._free) < count:
            size *= 2
        if size > have:
            self.memory = _larger(self.memory, (size * ARENA_BLOCK,))
            self._free += range(have, size)
            self.moves += 1


def _up(wanted: int, have: int) -> int:
    return have if wanted <= have else 1 << (wanted - 1).bit_length()


def _larger(old: Tensor, shape: Sequence[int]) -> Tensor:
    new = torch.zeros(tuple(shape), dtype=old.dtype, device=old.device)
    new[tuple(slice(size) for size in old.shape)] = old
    return new
