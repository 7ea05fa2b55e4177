"""The shape of a Llama-family network, from a Hugging Face config or GGUF metadata.

from_hugging_face(mapping) -> ModelConfig
from_gguf(fields)          -> ModelConfig
to_hugging_face(config)    -> mapping that transformers reads
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolute.types import ModelError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts: linear or llama3."""

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of one decoder. `width` is the model's, `head_width` a head's."""

    architecture: str
    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ff_width: int
    context: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def linear_shape(self, module: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer, by its short name."""
        q, kv = self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        return {
            "q_proj": (q, self.width),
            "k_proj": (kv, self.width),
            "v_proj": (kv, self.width),
            "o_proj": (self.width, q),
            "gate_proj": (self.ff_width, self.width),
            "up_proj": (self.ff_width, self.width),
            "down_proj": (self.width, self.ff_width),
        }[module]


def from_hugging_face(values: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json`. Raises ModelError for an architecture we do not have."""
    kind = str(values.get("model_type"))
    _check_architecture(kind)
    rope = dict(values.get("rope_parameters") or {})
    heads = int(values["num_attention_heads"])
    attention_bias = bool(values.get("attention_bias", kind == "qwen2"))
    eos = values.get("eos_token_id")
    return ModelConfig(
        architecture=kind,
        vocab_size=int(values["vocab_size"]),
        width=int(values["hidden_size"]),
        num_layers=int(values["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(values.get("num_key_value_heads") or heads),
        head_width=int(values.get("head_dim") or values["hidden_size"] // heads),
        ff_width=int(values["intermediate_size"]),
        context=int(values.get("max_position_embeddings", 2048)),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        rope_theta=float(values.get("rope_theta") or rope.get("rope_theta", 10_000.0)),
        rope_scaling=_rope_scaling(values.get("rope_scaling") or rope),
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias,
        output_bias=attention_bias and kind in ("llama", "qwen3"),
        mlp_bias=bool(values.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        sliding_window=_sliding_window(kind, values),
        bos_token_id=values.get("bos_token_id"),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (() if eos is None else (eos,)),
    )


def from_gguf(fields: Mapping[str, Any], has_tensor: Mapping[str, Any]) -> ModelConfig:
    """Read GGUF metadata; `has_tensor` holds the file's tensor names."""
    kind = str(fields.get("general.architecture"))
    _check_architecture(kind)

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"{kind}.{key}", default)

    heads, width = int(get("attention.head_count")), int(get("embedding_length"))
    scaling = str(get("rope.scaling.type", "none"))
    if scaling not in ("none", "linear") or "rope_freqs.weight" in has_tensor:
        raise ModelError(
            f"the file scales rotary positions by {scaling!r} or a table; only linear scaling is "
            "read from GGUF files. Use the safetensors directory of the model instead."
        )
    return ModelConfig(
        architecture=kind,
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        width=width,
        num_layers=int(get("block_count")),
        num_heads=heads,
        num_kv_heads=int(get("attention.head_count_kv", heads)),
        head_width=int(get("attention.key_length", width // heads)),
        ff_width=int(get("feed_forward_length")),
        context=int(get("context_length")),
        norm_eps=float(get("attention.layer_norm_rms_epsilon", 1e-5)),
        rope_theta=float(get("rope.freq_base", 10_000.0)),
        rope_scaling=(
            RopeScaling("linear", float(get("rope.scaling.factor", 1.0)))
            if scaling == "linear"
            else None
        ),
        tie_embeddings="output.weight" not in has_tensor,
        qkv_bias="blk.0.attn_q.bias" in has_tensor,
        output_bias="blk.0.attn_output.bias" in has_tensor,
        qk_norm="blk.0.attn_q_norm.weight" in has_tensor,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=(int(fields["tokenizer.ggml.eos_token_id"]),),
    )


def to_hugging_face(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The `config.json` of an exported model."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling:
        scaling = config.rope_scaling
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    return {
        "architectures": [ARCHITECTURES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ff_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
        "max_window_layers": 0,
        "hidden_act": "silu",
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "torch_dtype": dtype,
    }


# -- internals ---------------------------------------------------------------


def _check_architecture(kind: str) -> None:
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"the model's architecture is {kind!r}; supported are {', '.join(ARCHITECTURES)}."
        )


def _rope_scaling(values: Mapping[str, Any]) -> RopeScaling | None:
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise ModelError(f"rope scaling {kind!r} is not supported; linear and llama3 are.")
    return RopeScaling(
        kind,
        float(values["factor"]),
        float(values.get("low_freq_factor", 1.0)),
        float(values.get("high_freq_factor", 4.0)),
        int(values.get("original_max_position_embeddings", 8192)),
    )


def _sliding_window(kind: str, values: Mapping[str, Any]) -> int | None:
    window = values.get("sliding_window")
    if window is None or (kind.startswith("qwen") and not values.get("use_sliding_window")):
        return None
    if kind.startswith("qwen") and int(values.get("max_window_layers", 0)) > 0:
        raise ModelError("sliding windows on some layers only are not supported.")
    return int(window)
