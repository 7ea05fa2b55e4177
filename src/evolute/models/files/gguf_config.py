"""The header of a GGUF file as a ModelConfig."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evolute.models import rope
from evolute.models.config import ModelConfig, check_architecture
from evolute.models.fields import Fields
from evolute.types import ModelError


def from_gguf(
    fields: Mapping[str, Any],
    tensors: Collection[str],
    rope_table: Sequence[float] | None = None,
) -> ModelConfig:
    """Read GGUF metadata. `tensors` are the file's names, `rope_table` its `rope_freqs`."""
    kind = str(fields.get("general.architecture"))
    check_architecture(kind)
    read = Fields(fields, "the GGUF file", f"{kind}.")
    heads, width = read.whole("attention.head_count"), read.whole("embedding_length")
    head_width = read.whole("attention.key_length", width // max(heads, 1))
    if read.whole("rope.dimension_count", head_width) != head_width:
        raise ModelError("the file turns a part of each head only; such models are not supported.")
    if read.whole("attention.sliding_window", 0):
        raise ModelError(
            "the file has a sliding window, which is not read from GGUF files; use the safetensors "
            "directory of the model instead."
        )
    if isinstance(parts := fields.get("split.count", 1), int) and parts > 1:
        raise ModelError(
            f"the file is one of {parts} parts; join them with llama.cpp's `gguf-split --merge`."
        )
    ends = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return ModelConfig(
        architecture=kind,
        vocab_size=len(fields.get("tokenizer.ggml.tokens", ())),
        width=width,
        num_layers=read.whole("block_count"),
        num_heads=heads,
        num_kv_heads=read.whole("attention.head_count_kv", heads),
        head_width=head_width,
        ff_width=read.whole("feed_forward_length"),
        context=read.whole("context_length"),
        norm_eps=read.real("attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=read.real("rope.freq_base", 10_000.0),
        rope_scaling=rope.from_gguf(read, rope_table),
        tie_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=tuple(dict.fromkeys(int(id) for id in ends if id is not None)),
    )
