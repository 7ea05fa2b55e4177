"""Causal attention over pages (Kwon et al. 2023) with the online softmax (Dao et al. 2022).

    attention(q, pages, rows, singles, window) a step: its first sequences have one row each
    chunk_attention(q, pages, rows, window)    any rows: prefill behind a prefix, decode, both
    decode_attention(q, pages, rows, window)   one row a sequence, long contexts cut in splits

Twins of `evolute.kernels.reference.paged_attention`. A program holds a tile of rows: the query
heads of one kv head, of some neighbouring tokens. Keys are walked in blocks of 64 absolute
positions (32 where a head takes over 512 bytes) and splits have a fixed length, so a row's result
depends on its position alone, not on its batch or its chunk. The two functions sum in different
orders: for equal bits in prefill and decode use chunk_attention for both.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from evolute.kernels.reference import PagedRows, Pages

KEYS = 64  # positions of one step, at absolute multiples
SPLIT = 512  # positions of one split of a long context, at absolute multiples
CHUNK_ROWS = 64
QUERY_BYTES = 16 * 1024  # of a tile of queries: with keys and values it fits in 99 KiB


class Tile(NamedTuple):
    """Sizes the kernels are compiled for."""

    rows: int  # of a tile; a power of two, at least 16
    tokens: int  # in a tile; tokens * group <= rows
    group: int  # query heads to a kv head
    kv_heads: int
    width: int  # of a head
    width_block: int  # a power of two, at least 16
    page_size: int
    window: int  # 0: all positions are seen
    keys: int
    split: int


def attention(
    q: Float[Tensor, "T H E"],
    pages: Pages,
    rows: PagedRows,
    singles: int,
    window: int | None = None,
) -> Float[Tensor, "T H E"]:
    """The first `singles` sequences by decode_attention, the others by chunk_attention."""
    if singles == len(rows.page_table):
        return decode_attention(q, pages, rows, window)
    if not singles:
        return chunk_attention(q, pages, rows, window)
    out = torch.empty_like(q)
    first = replace(rows, page_table=rows.page_table[:singles], max_rows=1)
    decode_attention(q[:singles], pages, first, window, out)
    table, start = rows.page_table[singles:], rows.row_start[singles:]
    return chunk_attention(q, pages, replace(rows, page_table=table, row_start=start), window, out)


def chunk_attention(
    q: Float[Tensor, "T H E"],
    pages: Pages,
    rows: PagedRows,
    window: int | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "T H E"]:
    """q and pages contiguous; products in q's type, sums in float32. Rows that belong to no
    sequence of `rows` stay what they are in `out`."""
    tile = _tile(q, pages, window, CHUNK_ROWS)
    out = torch.empty_like(q) if out is None else out
    grid = (len(rows.page_table), triton.cdiv(rows.max_rows, tile.tokens), tile.kv_heads)
    chunk_kernel[grid](
        q, pages.keys, pages.values, out, rows.row_start, rows.positions, rows.page_table,
        rows.page_table.shape[1], q.shape[2] ** -0.5, tile, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def decode_attention(
    q: Float[Tensor, "B H E"],
    pages: Pages,
    rows: PagedRows,
    window: int | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "B H E"]:
    """Row b is sequence b's. Splits are computed apart, then joined in order, to the first rows of
    `out`."""
    if len(q) != len(rows.page_table):
        raise ValueError(
            f"{len(q)} rows of {len(rows.page_table)} sequences: decode_attention takes one row "
            "a sequence; use chunk_attention."
        )
    tile = _tile(q, pages, window, 16)
    splits = triton.cdiv(rows.max_context, tile.split)
    part = q.new_empty((len(q), splits, *q.shape[1:]), dtype=torch.float32)
    stats = q.new_empty((2, len(q), splits, q.shape[1]), dtype=torch.float32)
    split_kernel[len(q), tile.kv_heads, splits](
        q, pages.keys, pages.values, (part, stats[0], stats[1]), rows.positions, rows.page_table,
        rows.page_table.shape[1], q.shape[2] ** -0.5, tile, num_warps=4, num_stages=2,
    )  # fmt: skip
    out = torch.empty_like(q) if out is None else out
    join_kernel[len(q), q.shape[1]](
        (part, stats[0], stats[1]), out, rows.positions, splits, tile, num_warps=1
    )
    return out


# -- internals ---------------------------------------------------------------


def _tile(q: Tensor, pages: Pages, window: int | None, rows: int) -> Tile:
    kv_heads, width = pages.keys.shape[2:]
    group, width_block = q.shape[1] // kv_heads, max(16, triton.next_power_of_2(width))
    head_bytes = width_block * max(q.element_size(), pages.keys.element_size())
    rows = max(16, min(rows, QUERY_BYTES // head_bytes), triton.next_power_of_2(group))
    keys = KEYS if head_bytes <= 512 else KEYS // 2
    return Tile(
        rows, rows // group, group, kv_heads, width, width_block,
        pages.page_size, window or 0, keys, SPLIT,
    )  # fmt: skip


@triton.jit
def walk(q, keys, values, table, position, head, scale, begin, end, s: tl.constexpr):
    """Online softmax of the rows over positions begin : end, begin a multiple of the block.

    Returns sums [rows, E], maxima and totals [rows]; a row that sees nothing has maximum -inf.
    """
    e = tl.arange(0, s.width_block)
    top = tl.full((s.rows,), float("-inf"), tl.float32)
    total = tl.zeros((s.rows,), tl.float32)
    out = tl.zeros((s.rows, s.width_block), tl.float32)
    for start in range(begin, end, s.keys):
        at = start + tl.arange(0, s.keys)
        there = at < end
        page = tl.load(table + at // s.page_size, mask=there, other=0).to(tl.int64)
        slot = ((page * s.page_size + at % s.page_size) * s.kv_heads + head) * s.width
        inside = there[:, None] & (e < s.width)[None, :]
        k = tl.load(keys + slot[:, None] + e[None, :], mask=inside, other=0.0).to(q.dtype)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        seen = (at[None, :] <= position[:, None]) & there[None, :]
        if s.window > 0:
            seen = seen & (at[None, :] > position[:, None] - s.window)
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # the window starts further on
        weight = tl.exp(score - shift[:, None])
        decay = tl.exp(top - shift)
        total = total * decay + tl.sum(weight, 1)
        v = tl.load(values + slot[:, None] + e[None, :], mask=inside, other=0.0).to(q.dtype)
        out = out * decay[:, None]
        out += tl.dot(weight.to(q.dtype), v, input_precision="ieee")
        top = higher
    return out, top, total


@triton.jit
def first_seen(position, s: tl.constexpr):
    """The block where a row at `position` starts to see."""
    first = 0
    if s.window > 0:
        first = tl.maximum(position - s.window + 1, 0) // s.keys * s.keys
    return first


@triton.jit
def chunk_kernel(
    q, keys, values, out, row_start, positions, page_table, table_width, scale, s: tl.constexpr
):
    sequence, head = tl.program_id(0), tl.program_id(2)
    first = tl.load(row_start + sequence) + tl.program_id(1) * s.tokens
    end = tl.load(row_start + sequence + 1)
    if first >= end:
        return
    m, e = tl.arange(0, s.rows), tl.arange(0, s.width_block)
    token = first + m // s.group
    alive = (m < s.tokens * s.group) & (token < end)
    position = tl.load(positions + token, mask=alive, other=-1)  # -1 sees nothing
    at = (token.to(tl.int64) * s.kv_heads + head) * s.group + m % s.group
    at = at[:, None] * s.width + e[None, :]
    inside = alive[:, None] & (e < s.width)[None, :]
    query = tl.load(q + at, mask=inside, other=0.0)
    begin = first_seen(tl.load(positions + first), s)
    table = page_table + sequence.to(tl.int64) * table_width
    stop = tl.max(position, 0) + 1
    sums, _, total = walk(query, keys, values, table, position, head, scale, begin, stop, s)
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + at, result.to(query.dtype), mask=inside)


@triton.jit
def split_kernel(
    q, keys, values, parts, positions, page_table, table_width, scale, s: tl.constexpr
):
    sequence, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    last = tl.load(positions + sequence)
    begin = tl.maximum(first_seen(last, s), split * s.split)
    stop = tl.minimum(last + 1, (split + 1) * s.split)
    if begin >= stop:
        return
    m, e = tl.arange(0, s.rows), tl.arange(0, s.width_block)
    alive = m < s.group
    inside = alive[:, None] & (e < s.width)[None, :]
    row = (sequence.to(tl.int64) * s.kv_heads + head) * s.group + m
    query = tl.load(q + row[:, None] * s.width + e[None, :], mask=inside, other=0.0)
    position = tl.where(alive, last, -1)
    table = page_table + sequence.to(tl.int64) * table_width
    sums, top, total = walk(query, keys, values, table, position, head, scale, begin, stop, s)
    row = (sequence.to(tl.int64) * tl.num_programs(2) + split) * s.kv_heads + head
    row = row * s.group + m
    tl.store(parts[0] + row[:, None] * s.width + e[None, :], sums, mask=inside)
    tl.store(parts[1] + row, top, mask=alive)
    tl.store(parts[2] + row, total, mask=alive)


@triton.jit
def join_kernel(parts, out, positions, splits, s: tl.constexpr):
    sequence, head, e = tl.program_id(0), tl.program_id(1), tl.arange(0, s.width_block)
    last = tl.load(positions + sequence)
    heads = s.kv_heads * s.group
    top = float("-inf")
    total = 0.0
    sums = tl.zeros((s.width_block,), tl.float32)
    for split in range(first_seen(last, s) // s.split, last // s.split + 1):
        row = (sequence.to(tl.int64) * splits + split) * heads + head
        found = tl.load(parts[1] + row)
        higher = tl.maximum(top, found)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        decay, share = tl.exp(top - shift), tl.exp(found - shift)
        total = total * decay + tl.load(parts[2] + row) * share
        part = tl.load(parts[0] + row * s.width + e, mask=e < s.width, other=0.0)
        sums = sums * decay + part * share
        top = higher
    at = (sequence.to(tl.int64) * heads + head) * s.width + e
    tl.store(out + at, (sums / total).to(out.dtype.element_ty), mask=e < s.width)
