"""config.json of a Hugging Face directory, read and written.

from_hugging_face(mapping) -> ModelConfig
to_hugging_face(config)    -> mapping that transformers reads
token_ids(value)           -> ids of an `eos_token_id`

What transformers would compute otherwise than we do is refused, not passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.models import rope
from evolute.models.config import ARCHITECTURES, ModelConfig, check_architecture
from evolute.models.fields import Fields
from evolute.types import ModelError

QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "max_window_layers": 28}
FULL, SLIDING = "full_attention", "sliding_attention"
DEFAULTS: dict[str, dict[str, Any]] = {  # transformers' values of keys that a config leaves out
    "llama": {"max_position_embeddings": 2048},
    "mistral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": QWEN | {"sliding_window": 4096},
    "qwen3": QWEN | {"sliding_window": 4096, "head_dim": 128},
}


def from_hugging_face(values: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json`. Raises ModelError for what is missing or not computed here."""
    kind = str(values.get("model_type"))
    check_architecture(kind)
    values = DEFAULTS[kind] | dict(values)
    parameters = _rope_parameters(values)
    _refuse(values, parameters)
    read = Fields(values, "config.json")
    heads, context = read.whole("num_attention_heads"), read.whole("max_position_embeddings")
    can_bias = kind in ("llama", "qwen3")  # Qwen2 always has biases on q, k, v; Mistral never
    bias = can_bias and read.truth("attention_bias")
    return ModelConfig(
        architecture=kind,
        vocab_size=read.whole("vocab_size"),
        width=read.whole("hidden_size"),
        num_layers=read.whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=read.whole("num_key_value_heads", heads),
        head_width=read.whole("head_dim", read.whole("hidden_size") // max(heads, 1)),
        ff_width=read.whole("intermediate_size"),
        context=context,
        norm_eps=read.real("rms_norm_eps", 1e-6),
        rope_theta=Fields(parameters, "config.json").real("rope_theta", 10_000.0),
        rope_scaling=rope.from_hugging_face(parameters, context),
        tie_embeddings=read.truth("tie_word_embeddings"),
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind == "llama" and read.truth("mlp_bias"),
        qk_norm=kind == "qwen3",
        sliding_window=_sliding_window(kind, values),
        bos_token_id=values.get("bos_token_id"),
        eos_token_ids=token_ids(values.get("eos_token_id")),
    )


def to_hugging_face(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The `config.json` of an exported model. Raises ModelError when it cannot say all."""
    _check_expressible(config)
    base = {"rope_theta": config.rope_theta}
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
        "rope_parameters": rope.to_hugging_face(config.rope_scaling, config.context) | base,
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


def token_ids(value: Any) -> tuple[int, ...]:
    """One id, a list of ids, or nothing, as Hugging Face's files write end-of-sequence ids."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in values):
        raise ModelError(f"eos_token_id is {value!r}; it must be an id or a list of ids.")
    return tuple(values)


# -- internals ---------------------------------------------------------------


def _rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The newer `rope_parameters`, or the older pair of `rope_scaling` and `rope_theta`."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(found, Mapping) or any(isinstance(v, Mapping) for v in found.values()):
        raise ModelError(
            "config.json's rope parameters are not one flat table: layers with different rotary "
            "positions are not supported. Use another model."
        )
    return {"rope_theta": values.get("rope_theta")} | dict(found)


def _refuse(values: Mapping[str, Any], rope_values: Mapping[str, Any]) -> None:
    """What changes the arithmetic and is not done here."""
    partial = rope_values.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    limits = {
        "hidden_act": (values.get("hidden_act", "silu") in ("silu", "swish"), "silu"),
        "partial_rotary_factor": (partial in (None, 1, 1.0), "1"),
        "quantization_config": (not values.get("quantization_config"), "unquantised weights"),
    }
    for key, (is_fine, limit) in limits.items():
        if not is_fine:
            raise ModelError(
                f"config.json sets {key!r} to {values.get(key, partial)!r}; supported is {limit}. "
                "Use another model, or one converted to that."
            )


def _sliding_window(kind: str, values: Mapping[str, Any]) -> int | None:
    """One window for all layers, or None."""
    window = values.get("sliding_window")
    if kind.startswith("qwen") and not values.get("use_sliding_window"):
        window = None
    kinds = _kinds_of_layers(kind, values, has_window=window is not None)
    if len(kinds) != 1 or not kinds <= {FULL, SLIDING} or (kinds == {SLIDING} and window is None):
        raise ModelError(
            f"config.json's 'layer_types' (or max_window_layers) are {sorted(kinds)} with "
            f"sliding_window {window}; supported is one kind for all layers: {FULL}, or {SLIDING} "
            "with a window. Use another model."
        )
    if window is not None and (kind == "llama" or (kind == "mistral" and kinds == {FULL})):
        raise ModelError(
            f"config.json sets 'sliding_window' to {window}, which {ARCHITECTURES[kind]} with "
            f"layers of {kinds.pop()} does not have. Set it to null."
        )
    return Fields(values, "config.json").whole("sliding_window") if kinds == {SLIDING} else None


def _kinds_of_layers(kind: str, values: Mapping[str, Any], *, has_window: bool) -> set[str]:
    given, read = values.get("layer_types"), Fields(values, "config.json")
    num_layers = read.whole("num_hidden_layers")
    if given is not None:
        if not isinstance(given, list) or len(given) != num_layers:
            raise ModelError(
                f"config.json's 'layer_types' is {given!r}; it needs one kind for each of the "
                f"{num_layers} layers. Fetch the model again."
            )
        return {str(one) for one in given}
    first = read.whole("max_window_layers", 0) if kind.startswith("qwen") else 0
    if not has_window or first >= num_layers:
        return {FULL}
    return {FULL, SLIDING} if first > 0 else {SLIDING}


def _check_expressible(config: ModelConfig) -> None:
    """Hugging Face's classes tie the switches of biases together."""
    biases = (config.qkv_bias, config.output_bias, config.mlp_bias)
    allowed = {
        "llama": {(b, b, m) for b in (False, True) for m in (False, True)},
        "mistral": {(False, False, False)},
        "qwen2": {(True, False, False)},
        "qwen3": {(b, b, False) for b in (False, True)},
    }[config.architecture]
    if biases not in allowed or config.qk_norm != (config.architecture == "qwen3"):
        raise ModelError(
            f"{ARCHITECTURES[config.architecture]} has no switches for biases on q/k/v, output and "
            f"mlp of {biases} with qk_norm {config.qk_norm}; such a network cannot be written as a "
            "Hugging Face directory."
        )
