"""The decoder for training, with fewer and larger operations and gradients written by hand.

    FusedDecoder(decoder, lora, precision)(token_ids, positions, attend) -> hidden [T, D]

Equal to `decoder(token_ids, positions, attend, lora.delta)` up to rounding, in less time and
memory: q, k, v and gate, up are one product each; an adapter adds to a product in place; only
what the gradients need is kept, and the gate's product is computed a second time in place of
being kept. Products with frozen weights may be in bfloat16, all else stays in float32
(Micikevicius et al. 2018): with precision "mixed" those of the gradients, with "bfloat16" all.

Letters: T tokens, D width, F width of the MLP, H query and K kv heads, E head width, R rank.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from evolute.models import Attend, Decoder, LoraWeights
from evolute.train.fused_ops import GatedDown, LoraLinear, RmsNorm, Rotary

READS_ALIKE = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}


@dataclass(frozen=True, slots=True)
class Frozen:
    """Matrices that read the same input, one above the other: weight [N, K]."""

    weight: Tensor
    bias: Tensor | None
    sizes: tuple[int, ...]
    half: Tensor | None = None  # weight in bfloat16
    half_forward: bool = False

    def forward(self, x: Float[Tensor, "T K"]) -> Float[Tensor, "T N"]:
        if self.half is not None and self.half_forward:
            y = (x.to(self.half.dtype) @ self.half.T).float()
            return y if self.bias is None else y.add_(self.bias)
        return x @ self.weight.T if self.bias is None else torch.addmm(self.bias, x, self.weight.T)

    def backward(self, dy: Float[Tensor, "T N"]) -> Float[Tensor, "T K"]:
        if self.half is not None:
            return (dy.to(self.half.dtype) @ self.half).float()
        return dy @ self.weight


class FusedDecoder:
    """Shares the decoder's weights and the adapter's tensors; holds nothing of its own but copies
    in bfloat16 when asked for."""

    def __init__(self, decoder: Decoder, lora: LoraWeights, precision: str) -> None:
        self._decoder, self._lora = decoder, lora
        self._precision = precision
        self._frozen = [
            {name: self._join(block, name) for name in READS_ALIKE} for block in decoder.layers
        ]

    def __call__(
        self, token_ids: Int[Tensor, " T"], positions: Int[Tensor, " T"], attend: Attend
    ) -> Float[Tensor, "T D"]:
        """Hidden states after the final norm, with gradients for the adapter."""
        decoder = self._decoder
        half = decoder.config.head_width // 2
        table = decoder.get_buffer("rotary")[positions].unsqueeze(1)
        cos, sin = table[..., :half], table[..., half:]
        x = decoder.embed_tokens(token_ids)
        for index, block in enumerate(decoder.layers):
            x = x + self._attention(index, block, x, (cos, sin), attend)
            x = x + self._mlp(index, block, x)
        return _norm(x, decoder.norm)

    def with_adapter(self, lora: LoraWeights) -> FusedDecoder:
        """The same frozen matrices with another adapter."""
        other = copy.copy(self)
        other._lora = lora
        return other

    # -- internals ---------------------------------------------------------------

    def _attention(
        self,
        index: int,
        block: Any,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        attend: Attend,
    ) -> Tensor:
        config, parts = self._decoder.config, block.self_attn
        h = _norm(x, block.input_layernorm)
        qkv = self._linear(index, "qkv", h)
        heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        q, k, v = torch.split(qkv.view(len(x), -1, config.head_width), heads, dim=1)
        if config.qk_norm:
            q, k = _norm(q, parts["q_norm"]), _norm(k, parts["k_norm"])
        q, k = Rotary.apply(q, *rotary), Rotary.apply(k, *rotary)  # type: ignore[no-untyped-call]
        o = attend(index, q, k, v)
        return self._linear(index, "o", o.flatten(-2))

    def _mlp(self, index: int, block: Any, x: Tensor) -> Tensor:
        h = _norm(x, block.post_attention_layernorm)
        gate_up = self._linear(index, "gate_up", h)
        a, b = self._lora.tensors.get((index, "down_proj"), (None, None))
        down, scale = self._frozen[index]["down"], self._lora.scale
        y: Tensor = GatedDown.apply(gate_up, down, scale, a, b)  # type: ignore[no-untyped-call]
        return y

    def _linear(self, index: int, name: str, x: Tensor) -> Tensor:
        pairs = [self._lora.tensors.get((index, m), (None, None)) for m in READS_ALIKE[name]]
        flat = [tensor for pair in pairs for tensor in pair]
        frozen, scale = self._frozen[index][name], self._lora.scale
        y: Tensor = LoraLinear.apply(x, frozen, scale, *flat)  # type: ignore[no-untyped-call]
        return y

    def _join(self, block: Any, name: str) -> Frozen:
        """One matrix of several; the modules become views of it, so nothing is held twice."""
        parts = {**dict(block.self_attn.items()), **dict(block.mlp.items())}
        linears: list[nn.Linear] = [parts[module] for module in READS_ALIKE[name]]
        sizes = tuple(linear.out_features for linear in linears)
        weight = torch.cat([linear.weight.data for linear in linears])
        for linear, part in zip(linears, torch.split(weight, list(sizes))):
            linear.weight.data = part
        biases = [
            linear.weight.new_zeros(size) if linear.bias is None else linear.bias.data
            for linear, size in zip(linears, sizes)
        ]
        has_bias = any(linear.bias is not None for linear in linears)
        bias = torch.cat(biases) if has_bias else None
        half = None if self._precision == "float32" else weight.bfloat16()
        return Frozen(weight, bias, sizes, half, self._precision == "bfloat16")


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    y: Tensor = RmsNorm.apply(x, norm.weight, norm.eps)  # type: ignore[no-untyped-call]
    return y
