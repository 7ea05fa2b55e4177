"""The network: one definition of the Llama family, for training and for reference serving.

Tokens are packed, without padding. Three seams let everyone use it:

    attend(layer, q, k, v) -> o      who sees whom, and where keys and values are kept
    delta(layer, module, x) -> y     what is added to a linear layer's output: LoRA
    total(y) -> y                    the sum over ranks that hold a part of the network each

Letters: T tokens, D model width, H query heads, K kv heads, E head width, V vocabulary.
Llama, Mistral, Qwen2 (biases) and Qwen3 (norms on q and k) differ by switches of ModelConfig.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from evolute.models.config import ATTENTION, MLP, ModelConfig, tensor_shapes
from evolute.models.rope import rotary_table
from evolute.models.weights import ModelWeights


@runtime_checkable
class Attend(Protocol):
    """Attention of the packed tokens; q and k come with their positions rotated in."""

    def __call__(
        self,
        layer: int,
        q: Float[Tensor, "T H E"],
        k: Float[Tensor, "T K E"],
        v: Float[Tensor, "T K E"],
    ) -> Float[Tensor, "T H E"]: ...


@runtime_checkable
class Delta(Protocol):
    """What an adapter adds to a linear layer; None for nothing."""

    def __call__(self, layer: int, module: str, x: Tensor) -> Tensor | None: ...


@runtime_checkable
class Total(Protocol):
    """The sum over all ranks; it may overwrite `y`."""

    def __call__(self, y: Tensor, /) -> Tensor: ...


class RmsNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Block(nn.Module):
    """One layer: attention and gated MLP, each behind a norm and a residual."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.input_layernorm = RmsNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RmsNorm(config.width, config.norm_eps)
        self.self_attn = nn.ModuleDict({name: _linear(config, name) for name in ATTENTION})
        self.mlp = nn.ModuleDict({name: _linear(config, name) for name in MLP})
        if config.qk_norm:
            self.self_attn["q_norm"] = RmsNorm(config.head_width, config.norm_eps)
            self.self_attn["k_norm"] = RmsNorm(config.head_width, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        attend: Attend,
        delta: Delta | None,
        total: Total | None = None,
    ) -> Tensor:
        y = self._attention(self.input_layernorm(x), rotary, attend, delta)
        x = x + (total(y) if total else y)
        y = self._mlp(self.post_attention_layernorm(x), delta)
        return x + (total(y) if total else y)

    def _attention(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend, delta: Delta | None
    ) -> Tensor:
        width = self.config.head_width
        q, k, v = (
            self._linear(self.self_attn, name, x, delta).view(len(x), -1, width)
            for name in ATTENTION[:3]
        )
        if self.config.qk_norm:
            q, k = self.self_attn["q_norm"](q), self.self_attn["k_norm"](k)
        o = attend(self.index, rotate(q, *rotary), rotate(k, *rotary), v)
        return self._linear(self.self_attn, "o_proj", o.flatten(-2), delta)

    def _mlp(self, x: Tensor, delta: Delta | None) -> Tensor:
        gate = self._linear(self.mlp, "gate_proj", x, delta)
        up = self._linear(self.mlp, "up_proj", x, delta)
        return self._linear(self.mlp, "down_proj", F.silu(gate) * up, delta)

    def _linear(self, part: nn.ModuleDict, name: str, x: Tensor, delta: Delta | None) -> Tensor:
        y: Tensor = part[name](x)
        extra = delta(self.index, name, x) if delta else None
        return y if extra is None else y + extra


class Decoder(nn.Module):
    """Token ids in, hidden states out. Parameters bear Hugging Face's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.first_token = 0  # of the embedding's rows
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = RmsNorm(config.width, config.norm_eps)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        table = torch.from_numpy(rotary_table(config))
        self.register_buffer("rotary", table, persistent=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The output matrix; the embedding itself when tied."""
        head = self.embed_tokens if self.config.tie_embeddings else self.lm_head
        return head.weight

    def forward(
        self,
        token_ids: Int[Tensor, " T"],
        positions: Int[Tensor, " T"],
        attend: Attend,
        delta: Delta | None = None,
        total: Total | None = None,
    ) -> Float[Tensor, "T D"]:
        """Hidden states after the final norm; multiply by `head_weight` for logits."""
        x = self.embed(token_ids, total)
        half = self.config.head_width // 2
        table = self.get_buffer("rotary")[positions].to(x.dtype).unsqueeze(1)
        rotary = (table[..., :half], table[..., half:])
        for block in self.layers:
            x = block(x, rotary, attend, delta, total)
        out: Tensor = self.norm(x)
        return out

    def embed(
        self, token_ids: Int[Tensor, " T"], total: Total | None = None
    ) -> Float[Tensor, "T D"]:
        """Rows of the embedding. With `total` the module's rows begin at token `first_token`, and
        other ranks have those of other tokens."""
        if total is None:
            embedded: Tensor = self.embed_tokens(token_ids)
            return embedded
        local = token_ids - self.first_token
        is_own = (local >= 0) & (local < self.config.vocab_size)
        return total(self.embed_tokens(local.where(is_own, 0)) * is_own.unsqueeze(-1))

    def load(self, weights: ModelWeights) -> None:
        """Copy weights in. Raises ModelError for one missing, too many or of another shape."""
        weights.check(tensor_shapes(self.config))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(weights.dense(name))


def _linear(config: ModelConfig, name: str) -> nn.Linear:
    outputs, inputs = config.linear_shape(name)
    return nn.Linear(inputs, outputs, bias=config.has_bias(name))


def rotate(
    x: Float[Tensor, "T H E"], cos: Float[Tensor, "T 1 half"], sin: Float[Tensor, "T 1 half"]
) -> Float[Tensor, "T H E"]:
    """Rotary positions (Su et al. 2021), the two halves of a head as the pairs."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def causal_attention(lengths: list[int], sliding_window: int | None = None) -> Attend:
    """Attention for independent sequences packed one after the other."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [
            attend_one(q_T, k_T, v_T, sliding_window)
            for q_T, k_T, v_T in zip(*(torch.split(x, lengths) for x in (q, k, v)))
        ]
        return torch.cat(parts)

    return attend


def attend_one(
    q: Float[Tensor, "T H E"],
    k: Float[Tensor, "S K E"],
    v: Float[Tensor, "S K E"],
    sliding_window: int | None = None,
) -> Float[Tensor, "T H E"]:
    """Causal attention of the last T of the S positions of one sequence."""
    q_H, k_H, v_H = (x.transpose(0, 1)[None] for x in (q, k, v))
    return attention(q_H, k_H, v_H, sliding_window)[0].transpose(0, 1)


def attention(
    q: Float[Tensor, "B H T E"],
    k: Float[Tensor, "B K S E"],
    v: Float[Tensor, "B K S E"],
    sliding_window: int | None = None,
) -> Float[Tensor, "B H T E"]:
    """Causal attention of the last T of S positions."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys and sliding_window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    row = torch.arange(num_keys - num_queries, num_keys, device=q.device)[:, None]
    column = torch.arange(num_keys, device=q.device)[None]
    mask = column <= row
    if sliding_window is not None:
        mask &= column > row - sliding_window
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
