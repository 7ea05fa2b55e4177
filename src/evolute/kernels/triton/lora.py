"""Adapters of a whole batch in two launches: x A^T into a narrow buffer, then y += that times B^T.

    add_lora(y, x, pool, rows, adapter)

Twin of `evolute.kernels.reference.add_lora`, after the batched kernels of S-LoRA (Sheng et al.
2023) and Punica (Chen et al. 2023). A program works on rows of one sequence, thus of one adapter;
ranks are walked 16 at a time, so a small adapter pays nothing for a large one beside it. Programs
of sequences without an adapter end at once and leave y untouched.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from evolute.kernels.reference import AdapterPool, PagedRows


class Tile(NamedTuple):
    """Sizes the kernels are compiled for."""

    rows: int
    ranks: int
    inputs: int  # of one step
    outputs: int
    num_inputs: int
    num_outputs: int


def add_lora(
    y: Float[Tensor, "T N"],
    x: Float[Tensor, "T M"],
    pool: AdapterPool,
    rows: PagedRows,
    adapter: Int[Tensor, " B"],
) -> Float[Tensor, "T N"]:
    """y += (x A^T) B^T, in place; all contiguous."""
    if not pool.max_rank or not rows.max_rows:
        return y
    tile = Tile(16, 16, 64, 64, x.shape[1], y.shape[1])
    low = torch.empty((len(x), pool.max_rank), dtype=torch.float32, device=x.device)
    grid = (len(adapter), triton.cdiv(rows.max_rows, tile.rows))
    whose = (rows.row_start, adapter, pool.start)
    shrink_kernel[*grid, triton.cdiv(pool.max_rank, tile.ranks)](
        x, pool.a, low, whose, pool.max_rank, tile, num_warps=4
    )
    expand_kernel[*grid, triton.cdiv(tile.num_outputs, tile.outputs)](
        low, pool.b, y, whose, pool.max_rank, tile, num_warps=4
    )
    return y


# -- internals ---------------------------------------------------------------


@triton.jit
def shrink_kernel(x, a, low, whose, max_rank, s: tl.constexpr):
    sequence = tl.program_id(0)
    adapter = tl.load(whose[1] + sequence)
    if adapter < 0:
        return
    rank_start = tl.load(whose[2] + adapter)
    rank = tl.load(whose[2] + adapter + 1) - rank_start
    end = tl.load(whose[0] + sequence + 1)
    row = tl.load(whose[0] + sequence) + tl.program_id(1) * s.rows + tl.arange(0, s.rows)
    r = tl.program_id(2) * s.ranks + tl.arange(0, s.ranks)
    x_at = x + row.to(tl.int64)[:, None] * s.num_inputs
    a_at = a + (rank_start + r).to(tl.int64)[:, None] * s.num_inputs
    total = tl.zeros((s.rows, s.ranks), tl.float32)
    if tl.program_id(2) * s.ranks < rank:
        for start in range(0, s.num_inputs, s.inputs):
            m = (start + tl.arange(0, s.inputs))[None, :]
            there = m < s.num_inputs
            value = tl.load(x_at + m, mask=(row < end)[:, None] & there, other=0.0)
            weight = tl.load(a_at + m, mask=(r < rank)[:, None] & there, other=0.0)
            weight = tl.trans(weight.to(value.dtype))
            total += tl.dot(value, weight, input_precision="ieee")
        to = low + row.to(tl.int64)[:, None] * max_rank + r[None, :]
        tl.store(to, total, mask=(row < end)[:, None] & (r < rank)[None, :])


@triton.jit
def expand_kernel(low, b, y, whose, max_rank, s: tl.constexpr):
    sequence = tl.program_id(0)
    adapter = tl.load(whose[1] + sequence)
    if adapter < 0:
        return
    rank_start = tl.load(whose[2] + adapter)
    rank = tl.load(whose[2] + adapter + 1) - rank_start
    end = tl.load(whose[0] + sequence + 1)
    row = tl.load(whose[0] + sequence) + tl.program_id(1) * s.rows + tl.arange(0, s.rows)
    n = tl.program_id(2) * s.outputs + tl.arange(0, s.outputs)
    total = tl.zeros((s.rows, s.outputs), tl.float32)
    for start in range(0, rank, s.ranks):
        r = start + tl.arange(0, s.ranks)
        low_at = low + row.to(tl.int64)[:, None] * max_rank + r[None, :]
        value = tl.load(low_at, mask=(row < end)[:, None] & (r < rank)[None, :], other=0.0)
        b_at = b + (rank_start + r).to(tl.int64)[:, None] * s.num_outputs + n[None, :]
        wanted = (r < rank)[:, None] & (n < s.num_outputs)[None, :]
        weight = tl.load(b_at, mask=wanted, other=0.0)
        total += tl.dot(value.to(weight.dtype), weight, input_precision="ieee")
    to = y + row.to(tl.int64)[:, None] * s.num_outputs + n[None, :]
    inside = (row < end)[:, None] & (n < s.num_outputs)[None, :]
    before = tl.load(to, mask=inside, other=0.0)
    tl.store(to, (before.to(tl.float32) + total).to(before.dtype), mask=inside)
