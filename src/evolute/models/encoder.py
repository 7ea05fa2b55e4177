"""What does a sentence mean, as a vector? BERT with mean pooling, such as all-MiniLM-L6-v2.

    Encoder.load(path)           a directory in Hugging Face's layout
    encoder.encode(texts)        unit rows (n, width)
    encoder.hidden(ids, mask)    last hidden states, for those who pool themselves

NumPy alone: a sentence takes some milliseconds, and nobody waits for torch. Devlin et al. 2018
(arXiv 1810.04805); pooling as in Reimers and Gurevych 2019 (arXiv 1908.10084).

Axes: B texts, T tokens, D width, H heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from tokenizers import Tokenizer

from evolute.types import ModelError

Array = np.ndarray[Any, np.dtype[Any]]
BATCH = 32  # texts computed at once; sorted by length, so little is padding
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)  # Abramowitz 7.1.26


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Of config.json. `max_tokens` is what positions allow, or less where the pooling says so."""

    width: int
    num_layers: int
    num_heads: int
    max_tokens: int
    epsilon: float


class Encoder:
    """Weights in float32, a tokenizer, and the forward pass."""

    def __init__(
        self, config: EncoderConfig, weights: Mapping[str, Array], tokenizer: Tokenizer
    ) -> None:
        self.config, self._tokenizer = config, tokenizer
        self._weights = weights

    @classmethod
    def load(cls, path: str | Path) -> Encoder:
        """Raises ModelError for a directory that holds no BERT encoder."""
        directory = Path(path)
        try:
            values = json.loads((directory / "config.json").read_text())
            config = _config(values, directory)
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            weights = _weights(directory / "model.safetensors")
            missing = [name for name in _names(config) if name not in weights]
        except ModelError:
            raise
        except Exception as error:  # files, JSON, tensors: whatever is wrong with them
            raise ModelError(f"{directory} cannot be loaded as a BERT encoder: {error}") from error
        if missing:
            raise ModelError(f"{directory} lacks {len(missing)} tensors, such as {missing[0]!r}.")
        tokenizer.no_padding()
        tokenizer.enable_truncation(config.max_tokens)
        return cls(config, weights, tokenizer)

    def encode(self, texts: Sequence[str]) -> Float32[Array, "n width"]:
        """Unit rows in the order of the texts; tokens beyond `max_tokens` are not read."""
        rows = np.zeros((len(texts), self.config.width), np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            rows[some] = self._pooled([ids[k] for k in some])
        return rows

    def hidden(self, ids: Int64[Array, "B T"], mask: Bool[Array, "B T"]) -> Float32[Array, "B T D"]:
        """Last hidden states. `mask` is true where there is a token."""
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        barred = np.where(mask, np.float32(0), np.float32(-1e9))[:, None, None, :]
        for layer in range(self.config.num_layers):
            name = f"encoder.layer.{layer}."
            attended = self._attend(x, barred, f"{name}attention.self.")
            attended = self._linear(attended, f"{name}attention.output.dense")
            x = self._norm(x + attended, f"{name}attention.output.LayerNorm")
            wide = gelu(self._linear(x, f"{name}intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{name}output.dense"), f"{name}output.LayerNorm")
        return x

    # -- internals ---------------------------------------------------------------

    def _pooled(self, ids: list[list[int]]) -> Float32[Array, "B D"]:
        longest = max(len(one) for one in ids)
        padded = np.zeros((len(ids), longest), np.int64)
        mask = np.zeros((len(ids), longest), bool)
        for row, one in enumerate(ids):
            padded[row, : len(one)], mask[row, : len(one)] = one, True
        states = self.hidden(padded, mask) * mask[..., None]
        means = states.sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return np.asarray(means / np.maximum(lengths, 1e-12), np.float32)

    def _attend(self, x_BTD: Array, barred: Array, name: str) -> Array:
        B, T, D = x_BTD.shape
        heads = (B, T, self.config.num_heads, D // self.config.num_heads)
        q, k, v = (
            self._linear(x_BTD, name + part).reshape(heads).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(heads[3])) + barred
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(B, T, D))

    def _linear(self, x: Array, name: str) -> Array:
        return np.asarray(x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        scaled = centred / np.sqrt(variance + np.float32(self.config.epsilon))
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])


def gelu(x: Array) -> Array:
    """x times the normal distribution's share below x; within 2e-7 of the exact one."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for coefficient in reversed(ERF):
        series = (series + np.float32(coefficient)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    return np.asarray(x * (1 + erf) * np.float32(0.5))


# -- internals ---------------------------------------------------------------


def _config(values: Mapping[str, Any], directory: Path) -> EncoderConfig:
    kind, act = values.get("model_type"), values.get("hidden_act", "gelu")
    positions = values.get("position_embedding_type", "absolute")
    if (kind, act, positions) != ("bert", "gelu", "absolute"):
        raise ModelError(
            f"{directory} is a model of type {kind!r} with {act!r} and {positions!r} positions; "
            "encoders are bert with gelu and absolute positions."
        )
    limit = int(values["max_position_embeddings"])
    pooling = directory / "sentence_bert_config.json"
    if pooling.exists():
        limit = min(limit, int(json.loads(pooling.read_text()).get("max_seq_length") or limit))
    return EncoderConfig(
        int(values["hidden_size"]),
        int(values["num_hidden_layers"]),
        int(values["num_attention_heads"]),
        limit,
        float(values.get("layer_norm_eps", 1e-12)),
    )


def _weights(path: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file

    found = load_file(path)
    return {name.removeprefix("bert."): v.astype(np.float32) for name, v in found.items()}


def _names(config: EncoderConfig) -> list[str]:
    """Every tensor that `hidden` reads."""
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    names = [f"embeddings.{table}.weight" for table in tables]
    parts = ["attention.self.query", "attention.self.key", "attention.self.value"]
    parts += ["attention.output.dense", "attention.output.LayerNorm", "intermediate.dense"]
    parts += ["output.dense", "output.LayerNorm"]
    modules = ["embeddings.LayerNorm"]
    modules += [f"encoder.layer.{k}.{part}" for k in range(config.num_layers) for part in parts]
    return names + [f"{m}.{kind}" for m in modules for kind in ("weight", "bias")]
