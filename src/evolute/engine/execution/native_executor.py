"""The fast way to compute a step: the whole decoder in one native call.

Packs a model's weights for the kernels: float32 panels; or (precision "quantized") the file's
own blocks of small integers, which loses nothing of the file, dense matrices rounded to 8 bits
per block; or (precision "int8") 8 bits with one scale for each output, which takes the fewest
operations and more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import Bytes, Float32, StepBatch
from evolute.kernels import DecoderShape, KvPool, NativeDecoder, PackedLinear, PagedFloats
from evolute.models import (
    BlockQuantized,
    LoadedModel,
    ModelConfig,
    ModelWeights,
    PackedLora,
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
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
BLOCK = 32
ROWS_AT_ONCE = 4096  # of a matrix as floats, while it is rounded
MAX_GROUP = 1  # of 32 activations; with 2 or 3, perplexity rises by more than a hundredth


class NativeExecutor:
    """An `Executor` on the C++ kernels."""

    def __init__(self, model: LoadedModel, settings: Resolved) -> None:
        config, chosen = model.config, settings.config
        self._config, self._precision = config, chosen.precision
        self.decoder = NativeDecoder(_shape(config), rotary_table(config), chosen.num_threads)
        self.decoder.share_prefixes = chosen.shared_attention
        self.set_weights(model.weights)
        self._pages = KvPool(
            config.num_layers,
            settings.num_pages,
            chosen.page_size,
            config.num_kv_heads,
            config.head_width,
            "float16" if chosen.kv_dtype == "float16" else "float32",
        )
        self._page_memory = self._pages.memory()
        self.page_bytes = sum(side.shape[1] for side in self._page_memory)
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

    def read_page(self, page: int, into: Bytes) -> None:
        keys, values = self._page_memory
        into[: keys.shape[1]], into[keys.shape[1] :] = keys[page], values[page]

    def write_page(self, page: int, data: Bytes) -> None:
        keys, values = self._page_memory
        keys[page], values[page] = data[: keys.shape[1]], data[keys.shape[1] :]

    def write_adapter(self, adapter: PackedLora, pages: Sequence[int]) -> None:
        self._pages.write_floats(np.array(pages, np.int32), adapter.flat)

    def set_adapter(
        self, index: int, adapter: PackedLora, pages: Sequence[int] | None = None
    ) -> None:
        memory: PagedFloats | Float32 = adapter.flat
        if pages is not None:
            memory = PagedFloats(self._pages, np.array(pages, np.int32))
        self.decoder.set_adapter(index, adapter.table(), memory, adapter.scale)

    def drop_adapter(self, index: int) -> None:
        self.decoder.drop_adapter(index)

    def set_weights(self, weights: ModelWeights) -> None:
        """Pack every matrix anew, then hand all over: what can fail comes first."""
        names = dict.fromkeys(weights)
        if self._config.tie_embeddings and self._precision == "int8":
            names[HEAD] = None
        with ThreadPoolExecutor(self.decoder.num_threads) as threads:
            packed = dict(zip(names, threads.map(lambda name: self._pack(weights, name), names)))
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
        embedding = packed[EMBEDDING]
        head = packed.get(HEAD, embedding)
        self.decoder.set_vocabulary(embedding, head)

    def set_num_threads(self, num_threads: int) -> None:
        self.decoder.num_threads = num_threads

    def _pack(self, weights: ModelWeights, name: str) -> PackedLinear | Float32:
        if name not in weights:  # a head in 8 bits of a tied model
            return self._packed(weights, EMBEDDING)
        if len(weights[name].shape) != 2:
            return _vector(weights, name)
        if name == EMBEDDING:
            return self._packed_blocks(weights, name)
        return self._packed(weights, name)

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Nothing that this executor needs can be lost."""

    def close(self) -> None:
        """There is nothing to end: threads end with the decoder."""

    def _packed(self, weights: ModelWeights, name: str) -> PackedLinear:
        width = weights[name].shape[1]
        if self._precision != "int8" or width % BLOCK:
            return self._packed_blocks(weights, name)
        return PackedLinear.quantize_channels(weights.runs(name, ROWS_AT_ONCE), _group(width))

    def _packed_blocks(self, weights: ModelWeights, name: str) -> PackedLinear:
        weight = weights[name]
        if self._precision == "float32" or weight.shape[1] % BLOCK:
            return PackedLinear.from_float32(weights.array(name))
        if isinstance(weight, BlockQuantized):
            return PackedLinear.from_blocks(weight.codes, weight.scale, weight.offset, weight.bits)
        return PackedLinear.quantize(weights.array(name))


def _group(width: int) -> int:
    """Blocks of activations with one scale: the most that divide, up to MAX_GROUP."""
    return next(g for g in range(MAX_GROUP, 0, -1) if width % (g * BLOCK) == 0)


def _vector(weights: ModelWeights, name: str) -> Float32:
    return weights.array(name).copy()


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
