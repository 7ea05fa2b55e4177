"""Tensors of a GGUF file, kept in their own quantisation where it is affine.

read_weights(tensors, config) -> ModelWeights
rope_table(tensors)           -> the file's own divisors of rotary frequencies

Blocks become `BlockQuantized` (or arrays for floats and Q6_K), names become Hugging
Face's, and the rows of q and k that llama.cpp interleaves for its own rotary layout are put back
in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.models.config import ModelConfig
from evolute.models.files.gguf_header import TensorInfo
from evolute.models.weights import BlockQuantized, ModelWeights, Weight
from evolute.types import ModelError

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
ROPE_TABLE = "rope_freqs.weight"
FLOATS = {"F32": np.float32, "F16": np.float16}
Bytes = NDArray[np.uint8]


def read_weights(tensors: Mapping[str, TensorInfo], config: ModelConfig) -> ModelWeights:
    """All tensors of the file under Hugging Face names. Raises ModelError for one unknown."""
    wanted = [tensor for tensor in tensors.values() if tensor.name != ROPE_TABLE]  # of the config
    names = [_name(tensor.name) for tensor in wanted]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        weights = threads.map(lambda tensor: _rows_in_order(tensor, config), wanted)
        return ModelWeights(dict(zip(names, weights)))


def rope_table(tensors: Mapping[str, TensorInfo]) -> list[float] | None:
    """The divisors of rotary frequencies that the file brings, None without them."""
    if ROPE_TABLE not in tensors:
        return None
    weight = _weight(tensors[ROPE_TABLE])
    if isinstance(weight, BlockQuantized):
        raise ModelError(f"{ROPE_TABLE} is quantised; it must be F32. Convert the file again.")
    return [float(value) for value in weight.reshape(-1)]


# -- internals ---------------------------------------------------------------


def _name(name: str) -> str:
    parts = name.split(".")
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_NAMES:
        return f"layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    raise ModelError(
        f"the file has a tensor {name!r}, which networks of the Llama family do not; it would be "
        "left out of the computation. Use another model."
    )


def _rows_in_order(tensor: TensorInfo, config: ModelConfig) -> Weight:
    weight = _weight(tensor)
    if config.architecture == "llama" and tensor.name.split(".")[-2] in ("attn_q", "attn_k"):
        heads = config.num_heads if "attn_q" in tensor.name else config.num_kv_heads
        return _unpermute(weight, heads)
    return weight


def _weight(tensor: TensorInfo) -> Weight:
    kind, shape = tensor.kind, tensor.shape
    if kind in FLOATS:
        return tensor.data.view(FLOATS[kind]).copy().reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        upper = tensor.data.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return upper.view(np.float32).reshape(shape)
    if kind == "Q6_K":
        import gguf

        dense = gguf.dequantize(tensor.data, gguf.GGMLQuantizationType.Q6_K)
        return dense.reshape(shape)
    if kind not in DECODERS or len(shape) != 2:
        raise ModelError(
            f"tensor {tensor.name} has type {kind} and shape {shape}; supported are matrices of "
            f"F32, F16, BF16, Q6_K, {', '.join(DECODERS)}. Convert the file with llama.cpp's "
            "quantize tool."
        )
    size, bits, decode = DECODERS[kind]
    codes, scale, offset = decode(tensor.data.reshape(shape[0], -1, size))
    rows = shape[0]
    return BlockQuantized(
        np.ascontiguousarray(codes.reshape(rows, -1)),
        np.ascontiguousarray(scale.reshape(rows, -1)),
        np.ascontiguousarray(offset.reshape(rows, -1)),
        bits,
    )


def _unpermute(weight: Weight, heads: int) -> Weight:
    rows = weight.shape[0]
    if rows % (2 * heads):
        raise ModelError(f"q or k has {rows} rows for {heads} heads; the file is damaged.")
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    return weight.rows(order) if isinstance(weight, BlockQuantized) else weight[order]


def _half(raw: Bytes) -> NDArray[np.float32]:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)[..., 0]


def _nibbles(raw: Bytes) -> Bytes:
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _high_bits(raw: Bytes) -> Bytes:
    bits: Bytes = np.unpackbits(np.ascontiguousarray(raw), axis=-1, bitorder="little")
    return bits * np.uint8(16)


def _q4_0(raw: Bytes) -> tuple[Bytes, Any, Any]:
    scale = _half(raw[..., :2])
    return _nibbles(raw[..., 2:]), scale, -8 * scale


def _q4_1(raw: Bytes) -> tuple[Bytes, Any, Any]:
    return _nibbles(raw[..., 4:]), _half(raw[..., :2]), _half(raw[..., 2:4])


def _q5_0(raw: Bytes) -> tuple[Bytes, Any, Any]:
    scale = _half(raw[..., :2])
    return _nibbles(raw[..., 6:]) | _high_bits(raw[..., 2:6]), scale, -16 * scale


def _q5_1(raw: Bytes) -> tuple[Bytes, Any, Any]:
    codes = _nibbles(raw[..., 8:]) | _high_bits(raw[..., 4:8])
    return codes, _half(raw[..., :2]), _half(raw[..., 2:4])


def _q8_0(raw: Bytes) -> tuple[Bytes, Any, Any]:
    scale = _half(raw[..., :2])
    return raw[..., 2:] ^ np.uint8(128), scale, -128 * scale


def _q4_k(raw: Bytes) -> tuple[Bytes, Any, Any]:
    """Super-blocks of 256: eight blocks of 32, each with 6-bit scale and minimum."""
    d, dmin, packed = _half(raw[..., :2]), _half(raw[..., 2:4]), raw[..., 4:16]
    low, high, mixed = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (mixed & 15) | ((low >> 6) << 4)], axis=-1)
    minima = np.concatenate([high & 63, (mixed >> 4) | ((high >> 6) << 4)], axis=-1)
    quarters = raw[..., 16:].reshape(*raw.shape[:-1], 4, 32)
    codes = np.stack([quarters & 15, quarters >> 4], axis=-2)
    scale = d[..., None] * scales.astype(np.float32)
    return codes, scale, -(dmin[..., None] * minima.astype(np.float32))


DECODERS: dict[str, tuple[int, int, Callable[[Bytes], tuple[Bytes, Any, Any]]]] = {
    "Q4_0": (18, 4, _q4_0),
    "Q4_1": (20, 4, _q4_1),
    "Q5_0": (22, 8, _q5_0),
    "Q5_1": (24, 8, _q5_1),
    "Q8_0": (34, 8, _q8_0),
    "Q4_K": (144, 4, _q4_k),
}
