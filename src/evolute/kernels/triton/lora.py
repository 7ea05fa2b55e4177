"""Adapters of a whole batch in few launches: x A^T into a narrow buffer, then y += that times B^T.

    add_lora(outputs, x, pool, layer, rows, adapter)

Twin of `evolute.kernels.reference.add_lora`, after the batched kernels of S-LoRA (Sheng et al.
2023) and Punica (Chen et al. 2023). Linear layers with one input (q, k and v; gate and up) share
the launch that reads it. A program works on rows of one sequence, thus of one adapter; ranks are
walked 16 at a time, so a small adapter pays nothing for a large one beside it. Programs of
sequences without an adapter end at once and leave y untouched. Adapters are read where they lie,
cut into blocks: pages of keys and values, or memory of their own.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from evolute.kernels.reference import PITCH, AdapterPool, PagedRows


class Tile(NamedTuple):
    """Sizes the kernels are compiled for."""

    rows: int
    ranks: int
    columns: int  # of one step over inputs, or of a tile of outputs; a multiple of `run`
    width: int  # of the matrix that is read: inputs of A, outputs of B^T
    pitch: int  # floats from one of its rows to the next
    block: int  # floats of a block
    run: int  # floats that never lie in two blocks: one look into the table finds them


def add_lora(
    outputs: Sequence[Float[Tensor, "T N"]],
    x: Float[Tensor, "T M"],
    pool: AdapterPool,
    layer: int,
    rows: PagedRows,
    adapter: Int[Tensor, " B"],
) -> None:
    """y += scale (x A^T) B^T for each y, in place; all contiguous. Products in x's type."""
    if not pool.max_rank or not rows.max_rows:
        return
    shape = (len(x), len(outputs), pool.max_rank)
    low = torch.empty(shape, dtype=torch.float32, device=x.device)
    whose = (rows.row_start, adapter)
    read = (pool.memory, pool.blocks, pool.parts, pool.scale)
    strides = (pool.blocks.shape[1], pool.parts.shape[1] * 3)
    tile = _tile(x.shape[1], pool)
    grid = (len(adapter), triton.cdiv(rows.max_rows, tile.rows))
    rank_tiles = triton.cdiv(pool.max_rank, tile.ranks)
    shrink_kernel[*grid, len(outputs) * rank_tiles](
        x, low, read, strides, whose, layer, (len(outputs), rank_tiles, pool.max_rank), tile,
        num_warps=4,
    )  # fmt: skip
    for number, y in enumerate(outputs):
        tile = _tile(y.shape[1], pool)
        expand_kernel[*grid, triton.cdiv(tile.width, tile.columns)](
            low, y, read, strides, whose, layer, number,
            (len(outputs), rank_tiles, pool.max_rank), tile, num_warps=4,
        )  # fmt: skip


# -- internals ---------------------------------------------------------------


def _tile(width: int, pool: AdapterPool) -> Tile:
    pitch = triton.cdiv(width, PITCH) * PITCH
    return Tile(16, 16, 64, width, pitch, pool.block, math.gcd(PITCH, pool.block))


@triton.jit
def read_rows(memory, table, start, row, first, rank, s: tl.constexpr):
    """Floats [ranks, columns] of rows `row` of a matrix, from column `first` on; 0 beyond it."""
    runs: tl.constexpr = s.columns // s.run
    column = first + tl.arange(0, runs) * s.run
    at = start + row.to(tl.int64)[:, None] * s.pitch + column[None, :]
    there = (row < rank)[:, None] & (column < s.width)[None, :]
    block = tl.load(table + at // s.block, mask=there, other=0)
    base = (block + at % s.block)[:, :, None] + tl.arange(0, s.run)[None, None, :]
    at = tl.reshape(base, (s.ranks, s.columns))
    column = first + tl.arange(0, s.columns)
    there = (row < rank)[:, None] & (column < s.width)[None, :]
    return tl.load(memory + at, mask=there, other=0.0)


@triton.jit
def shrink_kernel(x, low, read, strides, whose, layer, sizes, s: tl.constexpr):
    sequence = tl.program_id(0)
    adapter = tl.load(whose[1] + sequence).to(tl.int64)
    if adapter < 0:
        return
    module, tile = tl.program_id(2) // sizes[1], tl.program_id(2) % sizes[1]
    part = read[2] + adapter * strides[1] + (layer + module) * 3
    rank, start = tl.load(part), tl.load(part + 1)
    end = tl.load(whose[0] + sequence + 1)
    row = tl.load(whose[0] + sequence) + tl.program_id(1) * s.rows + tl.arange(0, s.rows)
    r = tile * s.ranks + tl.arange(0, s.ranks)
    x_at = x + row.to(tl.int64)[:, None] * s.width
    if tile * s.ranks < rank:
        total = tl.zeros((s.rows, s.ranks), tl.float32)
        table = read[1] + adapter * strides[0]
        for first in range(0, s.width, s.columns):
            m = (first + tl.arange(0, s.columns))[None, :]
            value = tl.load(x_at + m, mask=(row < end)[:, None] & (m < s.width), other=0.0)
            weight = read_rows(read[0], table, start, r, first, rank, s)
            weight = tl.trans(weight.to(value.dtype))
            total += tl.dot(value, weight, input_precision="ieee")
        total = total * tl.load(read[3] + adapter)
        to = low + (row.to(tl.int64)[:, None] * sizes[0] + module) * sizes[2] + r[None, :]
        tl.store(to, total, mask=(row < end)[:, None] & (r < rank)[None, :])


@triton.jit
def expand_kernel(low, y, read, strides, whose, layer, module, sizes, s: tl.constexpr):
    sequence = tl.program_id(0)
    adapter = tl.load(whose[1] + sequence).to(tl.int64)
    if adapter < 0:
        return
    part = read[2] + adapter * strides[1] + (layer + module) * 3
    rank, begin = tl.load(part), tl.load(part + 2)
    if rank > 0:
        end = tl.load(whose[0] + sequence + 1)
        row = tl.load(whose[0] + sequence) + tl.program_id(1) * s.rows + tl.arange(0, s.rows)
        first = tl.program_id(2) * s.columns
        n = first + tl.arange(0, s.columns)
        to = y + row.to(tl.int64)[:, None] * s.width + n[None, :]
        inside = (row < end)[:, None] & (n < s.width)[None, :]
        before = tl.load(to, mask=inside, other=0.0)
        total = before.to(tl.float32)
        table = read[1] + adapter * strides[0]
        low_at = low + (row.to(tl.int64)[:, None] * sizes[0] + module) * sizes[2]
        for start in range(0, rank, s.ranks):
            r = start + tl.arange(0, s.ranks)
            narrow = (row < end)[:, None] & (r < rank)[None, :]
            value = tl.load(low_at + r[None, :], mask=narrow, other=0.0).to(before.dtype)
            weight = read_rows(read[0], table, begin, r, first, rank, s).to(before.dtype)
            total += tl.dot(value, weight, input_precision="ieee")
        tl.store(to, total.to(before.dtype), mask=inside)
