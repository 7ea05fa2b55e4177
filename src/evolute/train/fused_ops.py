"""Operations of the fused decoder with gradients by hand. The frozen weights have none.

LoraLinear   x W^T + scale (x A^T) B^T      for several matrices that read the same x
GatedDown    the same of silu(gate) * up, which is not kept but computed again
RmsNorm      x / rms(x) * weight
Rotary       rotary positions; the gradient is the rotation backwards
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from evolute.train.fused import Frozen

Pair = tuple[Tensor | None, Tensor | None]


class LoraLinear(torch.autograd.Function):
    """x [T, K], then A [R, K] and B [N, R] of each matrix or None -> y [T, sum N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Frozen, scale: float, *flat: Tensor | None) -> Tensor:
        y = frozen.forward(x)
        u = _add_lora(y, x, frozen, scale, flat)
        ctx.frozen, ctx.scale = frozen, scale
        ctx.save_for_backward(x, u, *flat)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, u, *flat = ctx.saved_tensors
        dx, gradients = _gradients(
            x, u, grads[0], ctx.frozen, ctx.scale, flat, ctx.needs_input_grad[0]
        )
        return dx, None, None, *gradients


class GatedDown(torch.autograd.Function):
    """gate_up [T, 2 F] -> down(silu(gate) * up) [T, D]."""

    @staticmethod
    def forward(
        ctx: Any, gate_up: Tensor, frozen: Frozen, scale: float, a: Tensor | None, b: Tensor | None
    ) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        x = torch.sigmoid(gate).mul_(gate).mul_(up)
        y = frozen.forward(x)
        u = _add_lora(y, x, frozen, scale, (a, b))
        ctx.frozen, ctx.scale = frozen, scale
        ctx.save_for_backward(gate_up, u, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gate_up, u, a, b = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        s = torch.sigmoid(gate)
        silu = s * gate
        x = silu * up
        dx, gradients = _gradients(x, u, grads[0], ctx.frozen, ctx.scale, (a, b), True)
        assert dx is not None
        d = torch.empty_like(gate_up)
        d_gate, d_up = d.chunk(2, dim=-1)
        torch.mul(dx, silu, out=d_up)
        # d silu / d gate = s + silu (1 - s)
        torch.addcmul(s, silu, s.neg().add_(1), out=x)
        torch.mul(dx.mul_(up), x, out=d_gate)
        return d, None, None, *gradients


class RmsNorm(torch.autograd.Function):
    """Over the last dimension, of width n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _mean_square(x).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, inverse, weight = ctx.saved_tensors
        g = grads[0] * weight
        along = (g * x).mean(-1, keepdim=True).mul_(inverse**3)
        return g.mul_(inverse).addcmul_(x, along, value=-1), None, None


class Rotary(torch.autograd.Function):
    """x [T, H, E], cos and sin [T, 1, E / 2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1.0), None, None


# -- internals ---------------------------------------------------------------


def _mean_square(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = cos.shape[-1]
    low, high = x[..., :half], x[..., half:]
    y = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(low, cos, out=y[..., :half])
    torch.mul(high, cos, out=y[..., half:])
    y[..., :half].addcmul_(high, sin, value=-sign)
    y[..., half:].addcmul_(low, sin, value=sign)
    return y


def _pairs(flat: Any) -> list[Pair]:
    return list(zip(flat[::2], flat[1::2]))


def _add_lora(y: Tensor, x: Tensor, frozen: Frozen, scale: float, flat: Any) -> Tensor | None:
    """y += scale (x A^T) B^T in place; returns x A^T of all adapters side by side, if any."""
    pairs = _pairs(flat)
    shrinks = [a for a, _ in pairs if a is not None]
    if not shrinks:
        return None
    u = x @ torch.cat(shrinks).T
    ranks = [0 if a is None else len(a) for a, _ in pairs]
    parts = zip(torch.split(y, list(frozen.sizes), dim=1), torch.split(u, ranks, dim=1), pairs)
    for y_i, u_i, (_, b) in parts:
        if b is not None:
            y_i.addmm_(u_i, b.T, alpha=scale)
    return u


def _gradients(
    x: Tensor,
    u: Tensor | None,
    dy: Tensor,
    frozen: Frozen,
    scale: float,
    flat: Any,
    needs_dx: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Of x, and of A and B of each matrix."""
    dx = frozen.backward(dy) if needs_dx else None
    pairs = _pairs(flat)
    if u is None:
        return dx, [None] * len(flat)
    ranks = [0 if a is None else len(a) for a, _ in pairs]
    v = torch.empty_like(u)
    d_bs: list[Tensor | None] = []
    parts = zip(
        torch.split(dy, list(frozen.sizes), dim=1),
        torch.split(u, ranks, dim=1),
        torch.split(v, ranks, dim=1),
        pairs,
    )
    for dy_i, u_i, v_i, (_, b) in parts:
        if b is not None:
            v_i.copy_(dy_i @ b)
        d_bs.append(None if b is None else (dy_i.T @ u_i).mul_(scale))
    v.mul_(scale)
    shrink = torch.cat([a for a, _ in pairs if a is not None])
    if dx is not None:
        dx.addmm_(v, shrink)
    d_as = torch.split(v.T @ x, [rank for rank in ranks if rank])
    left = iter(d_as)
    out: list[Tensor | None] = []
    for (a, _), d_b in zip(pairs, d_bs):
        out += [None if a is None else next(left), d_b]
    return dx, out
