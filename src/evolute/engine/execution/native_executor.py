"""The fast way to compute a step: the whole decoder in one native call.

Packs a model's weights for the kernels: float32 panels, or (precision "quantized") the file's
own blocks of small integers, which loses nothing of the file; dense matrices are then rounded
to 8 bits per block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import Float32, StepBatch
from evolute.kernels import DecoderShape, KvPool, NativeDecoder, PackedLinear
from evolute.models import (
    BlockQuantized,
    LoadedModel,
    LoraWeights,
    ModelConfig,
    ModelWeights,
    rotary_table,
)

LINEARS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NORMS = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
QK_NORMS = {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}
BLOCK = 32


class NativeExecutor:
    """An `Executor` on the C++ kernels."""

    def __init__(self, model: LoadedModel, settings: Resolved) -> None:
        config, chosen = model.config, settings.config
        self._config, self._is_quantized = config, chosen.precision == "quantized"
        self.decoder = NativeDecoder(
            _shape(config), rotary_table(config).numpy(), chosen.num_threads
        )
        self.set_weights(model.weights)
        self._pages = KvPool(
            config.num_layers,
            settings.num_pages,
            chosen.page_size,
            config.num_kv_heads,
            config.head_width,
            "float16" if chosen.kv_dtype == "float16" else "float32",
        )
        self._adapters: dict[int, LoraWeights] = {}
        self._logits = np.empty((0, config.vocab_size), np.float32)

    def forward(self, batch: StepBatch) -> Float32:
        """Logits that are good until the next step, which takes their memory: fresh pages would
        cost more than the sampling."""
        rows = len(batch.logit_rows)
        if rows > len(self._logits):
            self._logits = np.empty((rows, self._config.vocab_size), np.float32)
        return self.decoder.forward(
            self._pages,
            token_ids=batch.token_ids,
            positions=batch.positions,
            row_start=batch.row_start,
            context_len=batch.context_len,
            page_table=batch.page_table,
            adapter=batch.adapter,
            logit_rows=batch.logit_rows,
            out=self._logits[:rows],
        )

    def set_adapter(self, index: int, weights: LoraWeights) -> None:
        pairs = {
            (layer, module.removesuffix("_proj")): (
                a.detach().float().numpy(),
                b.detach().float().numpy(),
            )
            for (layer, module), (a, b) in weights.tensors.items()
        }
        self.decoder.set_adapter(index, pairs, weights.scale)
        self._adapters[index] = weights

    def drop_adapter(self, index: int) -> None:
        self.decoder.drop_adapter(index)
        del self._adapters[index]

    def adapter_fingerprint(self, index: int) -> str:
        """Digest of the tensors that were packed; the canary proves the packed copy."""
        return self._adapters[index].fingerprint()

    def set_weights(self, weights: ModelWeights) -> None:
        """Pack every matrix anew, then hand all over: what can fail comes first."""
        packed: dict[str, PackedLinear | Float32] = {}
        for name in weights:
            values = weights[name]
            is_matrix = len(values.shape) == 2
            packed[name] = self._packed(weights, name) if is_matrix else _vector(weights, name)
        self._hand_over(packed)
        self._packed_weights = packed

    def read_weight(self, name: str, count: int) -> Float32:
        packed = self._packed_weights[name]
        if isinstance(packed, PackedLinear):
            return packed.rows(np.arange(min(count, packed.shape[0])))
        return packed[:count]

    def _hand_over(self, packed: dict[str, Any]) -> None:
        """The decoder shares the packed matrices; nothing is copied but vectors."""
        for layer in range(self._config.num_layers):
            for short, name in LINEARS.items():
                full = f"layers.{layer}.{name}"
                bias = packed.get(f"{full}.bias")
                self.decoder.set_linear(layer, short, packed[f"{full}.weight"], bias)
            norms = NORMS | QK_NORMS if self._config.qk_norm else NORMS
            for short, name in norms.items():
                self.decoder.set_norm(layer, short, packed[f"layers.{layer}.{name}.weight"])
        self.decoder.set_final_norm(packed["norm.weight"])
        embedding = packed["embed_tokens.weight"]
        head = embedding if self._config.tie_embeddings else packed["lm_head.weight"]
        self.decoder.set_vocabulary(embedding, head)

    def set_num_threads(self, num_threads: int) -> None:
        self.decoder.num_threads = num_threads

    def _packed(self, weights: ModelWeights, name: str) -> PackedLinear:
        weight = weights[name]
        if not self._is_quantized or weight.shape[1] % BLOCK:
            return PackedLinear.from_float32(weights.dense(name).numpy())
        if isinstance(weight, BlockQuantized):
            return PackedLinear.from_blocks(weight.codes, weight.scale, weight.offset, weight.bits)
        return PackedLinear.quantize(weights.dense(name).numpy())


def _vector(weights: ModelWeights, name: str) -> Float32:
    values: Float32 = weights.dense(name).detach().numpy().copy()
    return values


def _shape(config: ModelConfig) -> DecoderShape:
    return DecoderShape(
        config.num_layers,
        config.width,
        config.num_heads,
        config.num_kv_heads,
        config.head_width,
        config.ff_width,
        config.vocab_size,
        config.norm_eps,
        config.qk_norm,
        config.sliding_window,
    )
