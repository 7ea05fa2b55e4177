"""y = x W^T + bias with W as 4- or 8-bit codes, turned back to numbers on the way in.

    block_linear(x, weight, bias)

Twin of `evolute.kernels.reference.block_linear`. Unlike the CPU kernels it does not round
activations: few rows leave a GPU's matrix units waiting for codes. Tiles have one height for all
batches, so a row's result does not depend on the rows beside it.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from evolute.kernels.reference import BLOCK, BlockWeight


class Tile(NamedTuple):
    """Sizes the kernel is compiled for."""

    rows: int
    outputs: int
    bytes: int  # of codes in one step: 16 to a block of 32 with 4 bits, 32 with 8
    block_bytes: int
    inputs: int
    bits: int


def block_linear(
    x: Float[Tensor, "T M"], weight: BlockWeight, bias: Float[Tensor, " N"] | None = None
) -> Float[Tensor, "T N"]:
    """x contiguous; products in x's type, sums in float32."""
    n, m = weight.shape
    if x.shape[1] != m:
        raise ValueError(f"x has {x.shape[1]} columns, the matrix {m}.")
    block_bytes = BLOCK * weight.bits // 8
    tile = Tile(32, 64, 2 * BLOCK, block_bytes, m, weight.bits)
    out = x.new_empty((len(x), n))
    grid = (triton.cdiv(len(x), tile.rows), triton.cdiv(n, tile.outputs))
    block_linear_kernel[grid](
        x, weight.codes, weight.scale, weight.offset, bias, out, len(x), n, tile,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


# -- internals ---------------------------------------------------------------


@triton.jit
def block_linear_kernel(x, codes, scale, offset, bias, out, num_rows, num_outputs, s: tl.constexpr):
    row = tl.program_id(0) * s.rows + tl.arange(0, s.rows)
    output = tl.program_id(1) * s.outputs + tl.arange(0, s.outputs)
    row_bytes: tl.constexpr = s.inputs * s.bits // 8
    blocks: tl.constexpr = s.inputs // 32
    x_at = x + row.to(tl.int64)[:, None] * s.inputs
    code_at = codes + output.to(tl.int64)[:, None] * row_bytes
    block_at = output.to(tl.int64)[:, None] * blocks
    live, wanted = (row < num_rows)[:, None], (output < num_outputs)[:, None]
    total = tl.zeros((s.rows, s.outputs), tl.float32)
    for start in range(0, row_bytes, s.bytes):
        at = (start + tl.arange(0, s.bytes))[None, :]
        there = at < row_bytes
        block = at // s.block_bytes
        column = block * 32 + at % s.block_bytes  # with 4 bits: of the code below
        code = tl.load(code_at + at, mask=wanted & there, other=0)
        factor = tl.load(scale + block_at + block, mask=wanted & there, other=0.0).to(tl.float32)
        shift = tl.load(offset + block_at + block, mask=wanted & there, other=0.0).to(tl.float32)
        value = tl.load(x_at + column, mask=live & there, other=0.0)
        if s.bits == 4:
            w = ((code & 15).to(tl.float32) * factor + shift).to(value.dtype)
            total += tl.dot(value, tl.trans(w), input_precision="ieee")
            value = tl.load(x_at + column + 16, mask=live & there, other=0.0)
            code = code >> 4
        w = (code.to(tl.float32) * factor + shift).to(value.dtype)
        total += tl.dot(value, tl.trans(w), input_precision="ieee")
    if bias is not None:
        extra = tl.load(bias + output, mask=output < num_outputs, other=0.0).to(tl.float32)
        total += extra[None, :]
    to = out + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=live & (output < num_outputs)[None, :])
