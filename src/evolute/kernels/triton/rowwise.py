"""Kernels that read a row once: the norm, the gate, the log-probability of a token.

    rms_norm(x, weight, eps, extra), silu_mul(gate, up), token_logprobs(logits, token_ids, ...)

Twins of `evolute.kernels.reference`. One program a row: no result depends on the other rows.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "T D"], weight: Float[Tensor, " D"], eps: float, extra: Tensor | None = None
) -> Float[Tensor, "T D"]:
    """The norm of x after x += extra, in place. x is contiguous."""
    out = torch.empty_like(x)
    width = x.shape[1]
    block = triton.next_power_of_2(width)
    warps = 4 if block <= 4096 else 8
    rms_norm_kernel[(len(x),)](x, weight, extra, out, eps, width, block, num_warps=warps)
    return out


def silu_mul(gate: Float[Tensor, "T F"], up: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """silu(gate) * up; both contiguous."""
    out = torch.empty_like(gate)
    size = gate.numel()
    silu_mul_kernel[(triton.cdiv(size, 1024),)](gate, up, out, size, 1024, num_warps=4)
    return out


def token_logprobs(
    logits: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], temperature: Float[Tensor, " T"]
) -> Float[Tensor, " T"]:
    """Log-probability of one token a row, over blocks of the vocabulary, in float32."""
    out = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    vocabulary = logits.shape[1]
    block = min(4096, triton.next_power_of_2(vocabulary))
    token_logprobs_kernel[(len(logits),)](
        logits, token_ids, temperature, out, vocabulary, block, num_warps=8
    )
    return out


# -- internals ---------------------------------------------------------------


@triton.jit
def rms_norm_kernel(x, weight, extra, out, eps, width: tl.constexpr, block: tl.constexpr):
    at = tl.arange(0, block)
    inside = at < width
    row = tl.program_id(0).to(tl.int64) * width
    value = tl.load(x + row + at, mask=inside, other=0.0)
    if extra is not None:
        wide = value.to(tl.float32)
        wide += tl.load(extra + row + at, mask=inside, other=0.0).to(tl.float32)
        value = wide.to(value.dtype)
        tl.store(x + row + at, value, mask=inside)
    wide = value.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + at, (wide * inverse * factor).to(value.dtype), mask=inside)


@triton.jit
def silu_mul_kernel(gate, up, out, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < size
    value = tl.load(gate + at, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    other = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * tl.sigmoid(wide) * other).to(value.dtype), mask=inside)


@triton.jit
def token_logprobs_kernel(
    logits, token_ids, temperature, out, vocabulary: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0)
    base = logits + row.to(tl.int64) * vocabulary
    inverse = 1.0 / tl.load(temperature + row).to(tl.float32)
    top = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, vocabulary, block):  # each lane keeps its own maximum and sum
        at = start + tl.arange(0, block)
        value = tl.load(base + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
        value = value * inverse
        higher = tl.maximum(top, value)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.exp(value - shift)
        top = higher
    best = tl.max(top, 0)
    normalizer = best + tl.log(tl.sum(total * tl.exp(top - best), 0))
    chosen = tl.load(base + tl.load(token_ids + row)).to(tl.float32) * inverse
    tl.store(out + row, chosen - normalizer)
