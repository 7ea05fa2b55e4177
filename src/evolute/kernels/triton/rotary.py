"""Rotary positions of q and k, and their way to the pages, in one pass over a token.

    rotate_and_store(q, k, v, rotary, rows, pages, norm) -> q

Twin of `evolute.kernels.reference.rotate_and_store`. One program a token.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from evolute.kernels.reference import HeadNorm, PagedRows, Pages


class Heads(NamedTuple):
    """Sizes the kernel is compiled for; blocks are powers of two."""

    heads: int
    head_block: int
    kv_heads: int
    kv_block: int
    half: int  # of the head width
    half_block: int
    page_size: int


def rotate_and_store(
    q: Float[Tensor, "T H E"],
    k: Float[Tensor, "T K E"],
    v: Float[Tensor, "T K E"],
    rotary: Float[Tensor, "C E"],
    rows: PagedRows,
    pages: Pages,
    norm: HeadNorm | None = None,
) -> Float[Tensor, "T H E"]:
    """q rotated; k rotated, and v, to their slots. Contiguous; no two tokens share a slot."""
    num_tokens, heads, width = q.shape
    up, kv_heads = triton.next_power_of_2, k.shape[1]
    half = width // 2
    sizes = Heads(heads, up(heads), kv_heads, up(kv_heads), half, up(half), pages.page_size)
    out = torch.empty_like(q)
    weights = None if norm is None else (norm.q, norm.k)
    rotate_and_store_kernel[(num_tokens,)](
        (q, k, v), out, rotary, (pages.keys, pages.values),
        (rows.owner, rows.positions, rows.page_table), rows.page_table.shape[1],
        weights, 0.0 if norm is None else norm.eps, sizes, num_warps=4,
    )  # fmt: skip
    return out


# -- internals ---------------------------------------------------------------


@triton.jit
def halves(x, heads: tl.constexpr, block: tl.constexpr, s: tl.constexpr):
    """Lower and upper halves [heads, E / 2] of the heads at x, in float32; offsets; mask."""
    head, e = tl.arange(0, block)[:, None], tl.arange(0, s.half_block)[None, :]
    at = head * (2 * s.half) + e
    inside = (head < heads) & (e < s.half)
    low = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + at + s.half, mask=inside, other=0.0).to(tl.float32)
    return low, high, at, inside


@triton.jit
def normed(low, high, weight, eps, s: tl.constexpr):
    e = tl.arange(0, s.half_block)
    squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
    inverse = (1.0 / tl.sqrt(squares / (2 * s.half) + eps))[:, None]
    below = tl.load(weight + e, mask=e < s.half, other=0.0).to(tl.float32)[None, :]
    above = tl.load(weight + s.half + e, mask=e < s.half, other=0.0).to(tl.float32)[None, :]
    return low * inverse * below, high * inverse * above


@triton.jit
def rotate_and_store_kernel(
    qkv, out, rotary, pages, rows, table_width, weights, eps, s: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(rows[1] + token)
    table = rows[2] + tl.load(rows[0] + token).to(tl.int64) * table_width
    page = tl.load(table + position // s.page_size).to(tl.int64)
    slot = (page * s.page_size + position % s.page_size) * (s.kv_heads * 2 * s.half)
    e = tl.arange(0, s.half_block)
    turn = rotary + position.to(tl.int64) * (2 * s.half)
    cos = tl.load(turn + e, mask=e < s.half, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(turn + s.half + e, mask=e < s.half, other=0.0).to(tl.float32)[None, :]

    first = token * (s.heads * 2 * s.half)
    low, high, at, inside = halves(qkv[0] + first, s.heads, s.head_block, s)
    if weights is not None:
        low, high = normed(low, high, weights[0], eps, s)
    kind = out.dtype.element_ty
    tl.store(out + first + at, (low * cos - high * sin).to(kind), mask=inside)
    tl.store(out + first + at + s.half, (high * cos + low * sin).to(kind), mask=inside)

    first = token * (s.kv_heads * 2 * s.half)
    low, high, at, inside = halves(qkv[1] + first, s.kv_heads, s.kv_block, s)
    if weights is not None:
        low, high = normed(low, high, weights[1], eps, s)
    kind = pages[0].dtype.element_ty
    tl.store(pages[0] + slot + at, (low * cos - high * sin).to(kind), mask=inside)
    tl.store(pages[0] + slot + at + s.half, (high * cos + low * sin).to(kind), mask=inside)
    low, high, at, inside = halves(qkv[2] + first, s.kv_heads, s.kv_block, s)
    tl.store(pages[1] + slot + at, low.to(kind), mask=inside)
    tl.store(pages[1] + slot + at + s.half, high.to(kind), mask=inside)
