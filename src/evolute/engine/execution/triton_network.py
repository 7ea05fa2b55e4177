"""What does a step compute on a GPU? The decoder, layer by layer, with the Triton kernels.

    Network(config, precision, device).forward(step, pages, pool) -> logits
    network.set_weights(weights)      all or nothing, at the same addresses where that can be

Products are in `dtype`, sums and norms in float32. A matrix of codes stays one (precision
"quantized"); others are numbers in `dtype`, multiplied by the library's product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evolute.engine.execution.batch import Float32
from evolute.engine.execution.step_inputs import StepInputs
from evolute.kernels.reference import AdapterPool, BlockWeight, HeadNorm, Pages
from evolute.kernels.triton.attention import attention
from evolute.kernels.triton.linear import block_linear
from evolute.kernels.triton.lora import add_lora
from evolute.kernels.triton.rotary import rotate_and_store
from evolute.kernels.triton.rowwise import rms_norm, silu_mul
from evolute.models import BlockQuantized, ModelConfig, ModelWeights, rotary_table
from evolute.models.config import PARENT, tensor_shapes
from evolute.models.lora import MODULES

Matrix: TypeAlias = Tensor | BlockWeight
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


class Network:
    """Weights on the device, and the order in which kernels read them."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, keep_codes: bool, device: torch.device
    ) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self._keep_codes = keep_codes
        self._rotary = torch.from_numpy(rotary_table(config)).float().contiguous().to(device)
        self._weights: dict[str, Matrix] = {}

    def forward(self, step: StepInputs, pages: Sequence[Pages], pool: AdapterPool | None) -> Tensor:
        """Logits [R, V] of the step's logit rows; keys and values of all rows go to `pages`."""
        rows, window, eps = step.rows, self.config.sliding_window, self.config.norm_eps
        x, extra = self._embed(step["token_ids"]), None
        for layer, own in enumerate(pages):
            h = rms_norm(x, self._vector(f"layers.{layer}.input_layernorm"), eps, extra)
            q, k, v = (
                y.view(len(x), -1, self.config.head_width)
                for y in self._linear(layer, ("q_proj", "k_proj", "v_proj"), h, step, pool)
            )
            q = rotate_and_store(q, k, v, self._rotary, rows, own, self._head_norm(layer))
            o = attention(q, own, rows, step.singles, window).flatten(1)
            (extra,) = self._linear(layer, ("o_proj",), o, step, pool)
            h = rms_norm(x, self._vector(f"layers.{layer}.post_attention_layernorm"), eps, extra)
            gate, up = self._linear(layer, ("gate_proj", "up_proj"), h, step, pool)
            (extra,) = self._linear(layer, ("down_proj",), silu_mul(gate, up), step, pool)
        return self._logits(x, extra, step["logit_rows"])

    def set_weights(self, weights: ModelWeights) -> bool:
        """Whether all of them lie where the old ones lay. What can fail comes first: a failure
        leaves everything as it was."""
        weights.check(tensor_shapes(self.config))
        made = {name: self._made(weights, name) for name in weights}
        moved = {
            name: _to(new, self.device)
            for name, new in made.items()
            if not _is_alike(self._weights.get(name), new)
        }
        for name, new in made.items():
            if name not in moved:
                for to, source in zip(_tensors(self._weights[name]), _tensors(new)):
                    to.copy_(source)
        self._weights.update(moved)
        return not moved

    def read_weight(self, name: str, count: int) -> Float32:
        weight = self._weights[name]
        if isinstance(weight, BlockWeight):
            weight = _rows(weight, slice(count)).dense()
        found: Float32 = weight[:count].float().cpu().numpy()
        return found

    # -- internals -----------------------------------------------------------

    def _embed(self, token_ids: Tensor) -> Tensor:
        table = self._weights[EMBEDDING]
        if isinstance(table, BlockWeight):
            return _rows(table, token_ids.long()).dense().to(self.dtype)
        return F.embedding(token_ids, table)

    def _logits(self, x: Tensor, extra: Tensor | None, wanted: Tensor) -> Tensor:
        if not len(wanted):
            return x.new_empty((0, self.config.vocab_size), dtype=torch.float32)
        x = x[wanted.long()]
        extra = None if extra is None else extra[wanted.long()]
        x = rms_norm(x, self._vector("norm"), self.config.norm_eps, extra)
        head = EMBEDDING if self.config.tie_embeddings else HEAD
        return _product(x, self._weights[head], None).float()

    def _linear(
        self,
        layer: int,
        modules: Sequence[str],
        x: Tensor,
        step: StepInputs,
        pool: AdapterPool | None,
    ) -> list[Tensor]:
        """Outputs of modules that read the same `x`, adapters included."""
        found = []
        for module in modules:
            name = f"layers.{layer}.{PARENT[module]}.{module}"
            bias = self._weights.get(f"{name}.bias")
            assert not isinstance(bias, BlockWeight), f"{name}.bias is a vector"
            found.append(_product(x, self._weights[f"{name}.weight"], bias))
        if pool is not None:
            first = layer * len(MODULES) + MODULES.index(modules[0])
            add_lora(found, x, pool, first, step.rows, step["adapter"])
        return found

    def _head_norm(self, layer: int) -> HeadNorm | None:
        if not self.config.qk_norm:
            return None
        norms = [self._vector(f"layers.{layer}.self_attn.{name}_norm") for name in "qk"]
        return HeadNorm(norms[0], norms[1], self.config.norm_eps)

    def _vector(self, name: str) -> Tensor:
        found = self._weights[f"{name}.weight"]
        assert isinstance(found, Tensor), f"{name} is a vector"
        return found

    def _made(self, weights: ModelWeights, name: str) -> Matrix:
        """On the host."""
        weight = weights[name]
        if self._keep_codes and isinstance(weight, BlockQuantized):
            codes, scale, offset = (
                torch.from_numpy(np.require(x, requirements="W"))  # a file's pages are read only
                for x in (weight.codes, weight.scale, weight.offset)
            )
            return BlockWeight.pack(codes, scale, offset, 4 if weight.bits <= 4 else 8)
        return weights.dense(name).detach().to(self.dtype).contiguous()


def _product(x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
    if isinstance(weight, BlockWeight):
        return block_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def _rows(weight: BlockWeight, which: slice | Tensor) -> BlockWeight:
    cut = {name: getattr(weight, name)[which] for name in ("codes", "scale", "offset")}
    return replace(weight, **cut)


def _tensors(weight: Matrix) -> tuple[Tensor, ...]:
    if isinstance(weight, BlockWeight):
        return weight.codes, weight.scale, weight.offset
    return (weight,)


def _to(weight: Matrix, device: torch.device) -> Matrix:
    """A copy: the file's own arrays are nobody's to change."""
    if isinstance(weight, BlockWeight):
        codes, scale, offset = (x.to(device, copy=True) for x in _tensors(weight))
        return BlockWeight(codes, scale, offset, weight.bits)
    return weight.to(device, copy=True)


def _is_alike(old: Matrix | None, new: Matrix) -> bool:
    """Whether the new values fit where the old ones lie."""
    if old is None or type(old) is not type(new):
        return False
    if getattr(old, "bits", 0) != getattr(new, "bits", 0):
        return False
    return [x.shape for x in _tensors(old)] == [x.shape for x in _tensors(new)]
