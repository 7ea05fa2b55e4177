"""Rotary frequencies: by which angle a position turns each pair of a head's dimensions.

inverse_frequencies(scaling, ...) -> [pairs]   radians per position
rotary_table(config) -> [context, E]           cosines and sines of every position
from_hugging_face(values, context), from_gguf(fields, table), to_hugging_face(scaling)

linear   every angle is divided (Chen et al. 2023, arXiv:2306.15595)
llama3   long waves are divided, short ones kept, a ramp between them (arXiv:2407.21783)
yarn     the same by counts of turns, and attention is sharpened (Peng et al., arXiv:2309.00071)
dynamic  the base grows with sequences longer than the context; within it nothing changes, and
         nothing longer is served: cached keys would carry the angles of another length
table    the file itself brings a divisor for each pair (`rope_freqs` of GGUF files)

All is computed in float32, step by step as transformers does, so that angles agree at position
100,000 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from evolute.models.fields import Fields
from evolute.types import ModelError

if TYPE_CHECKING:
    from evolute.models.config import ModelConfig

OWN_FIELDS = {  # of a kind, written as transformers names them
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "truncate"),
}
Floats = NDArray[np.floating[Any]]  # float32 throughout: numbers of Python's do not widen
KINDS = ("linear", "llama3", "yarn", "dynamic")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts; unused fields keep their values."""

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    original_context: int = 8192  # llama3, yarn: tokens the model was first trained on
    attention_factor: float = 1.0  # yarn: what cos and sin are multiplied with
    beta_fast: float = 32.0  # yarn: turns within the original context above which a pair is kept
    beta_slow: float = 1.0  # yarn: turns below which it is divided by `factor`
    truncate: bool = True  # yarn: the ramp begins and ends at whole pairs
    table: tuple[float, ...] = ()  # table: the divisor of each pair


def inverse_frequencies(
    theta: float, head_width: int, scaling: RopeScaling | None
) -> Float[Floats, " pairs"]:
    """Radians per position of each of the head_width / 2 pairs."""
    exponent = np.arange(0, head_width, 2, dtype=np.float32) / head_width
    waves = np.power(theta, exponent.astype(np.float64)).astype(np.float32)
    if scaling is not None and scaling.kind == "yarn":
        return _yarn(waves, theta, scaling)
    if scaling is not None and scaling.kind == "table":
        return 1 / (np.array(scaling.table, np.float32) * waves)
    plain = 1 / waves
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    return _llama3(plain, scaling)


def rotary_table(config: ModelConfig) -> Float[NDArray[np.float32], "context E"]:
    """[cos | sin] of every position."""
    scaling = config.rope_scaling
    inverse = inverse_frequencies(config.rope_theta, config.head_width, scaling)
    angles = np.outer(np.arange(config.context, dtype=np.float32), inverse)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    table *= scaling.attention_factor if scaling else 1.0
    return table.astype(np.float32, copy=False)


def from_hugging_face(values: Mapping[str, Any], context: int) -> RopeScaling | None:
    """Read `rope_parameters` (or the older `rope_scaling`) of a config.json."""
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind == "default":
        return None
    read = Fields(values, f"config.json's rope parameters of kind {kind!r}")
    original = read.whole("original_max_position_embeddings", context)
    if kind == "longrope":
        return _longrope(values)
    if kind not in KINDS:
        raise ModelError(
            f"rope scaling {kind!r} is not supported; {', '.join(KINDS)} and longrope with one "
            "table are. Use another model."
        )
    factor = read.real("factor", context / original if kind == "yarn" else None)
    if kind == "llama3":
        low, high = read.real("low_freq_factor"), read.real("high_freq_factor")
        return RopeScaling(kind, factor, low, high, original)
    if kind == "yarn":
        return RopeScaling(
            kind,
            factor,
            original_context=original,
            attention_factor=_attention_factor(values, factor),
            beta_fast=float(values.get("beta_fast") or 32),
            beta_slow=float(values.get("beta_slow") or 1),
            truncate=bool(values.get("truncate", True)),
        )
    return RopeScaling(kind, factor)


def from_gguf(fields: Fields, table: Sequence[float] | None) -> RopeScaling | None:
    """Read `rope.scaling.*` and the values of the tensor `rope_freqs.weight`, None without it."""
    kind = str(fields.values.get(f"{fields.prefix}rope.scaling.type", "none"))
    if kind not in ("none", "linear", "yarn") or (table and kind != "none"):
        raise ModelError(
            f"{fields.where} scales rotary positions by {kind!r}{' and a table' if table else ''}; "
            "linear, yarn, or a table alone are read from GGUF files. Use the safetensors "
            "directory of the model instead."
        )
    if table:
        return RopeScaling("table", table=tuple(table))
    factor = fields.real("rope.scaling.factor", 1.0)
    if kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return RopeScaling(kind, factor)
    sharpen = fields.real("rope.scaling.attn_factor", 1.0) * fields.real(
        "rope.scaling.yarn_attn_factor", 1.0
    )
    return RopeScaling(
        kind,
        factor,
        original_context=fields.whole("rope.scaling.original_context_length"),
        attention_factor=sharpen * _sharpness(factor),
        beta_fast=fields.real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.real("rope.scaling.yarn_beta_slow", 1.0),
    )


def to_hugging_face(scaling: RopeScaling | None, context: int) -> dict[str, Any]:
    """`rope_parameters` of a config.json, without the base."""
    if scaling is None:
        return {"rope_type": "default"}
    if scaling.kind == "table":
        table = list(scaling.table)
        known = {"original_max_position_embeddings": context, "attention_factor": 1.0}
        tables = {"short_factor": table, "long_factor": table}
        return {"rope_type": "longrope", "factor": 1.0} | known | tables
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        values["original_max_position_embeddings"] = scaling.original_context
    return values | {name: getattr(scaling, name) for name in OWN_FIELDS.get(scaling.kind, ())}


# -- internals ---------------------------------------------------------------


def _llama3(plain: Floats, scaling: RopeScaling) -> Floats:
    wavelength = 1 / plain * (2 * math.pi)  # a number by a tensor is this in torch
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    smooth = (1 / wavelength * scaling.original_context - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * plain / scaling.factor + smooth * plain
    blended = np.where(wavelength > low, plain / scaling.factor, blended)
    return np.where(wavelength < high, plain, blended)


def _yarn(waves: Floats, theta: float, scaling: RopeScaling) -> Floats:
    width = 2 * len(waves)

    def pair_that_turns(times: float) -> float:
        turns = scaling.original_context / (times * 2 * math.pi)
        return width * math.log(turns) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    length = last - first or 0.001
    pair = np.arange(width // 2, dtype=np.float32)
    kept: Floats = 1 - ((pair - first) / length).clip(0, 1)
    return 1 / (scaling.factor * waves) * (1 - kept) + 1 / waves * kept


def _sharpness(factor: float, weight: float = 1.0) -> float:
    """YaRN's temperature of attention, as a factor of cos and sin."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _attention_factor(values: Mapping[str, Any], factor: float) -> float:
    given, all_dims = values.get("mscale"), values.get("mscale_all_dim")
    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    if given and all_dims:
        return _sharpness(factor, given) / _sharpness(factor, all_dims)
    return _sharpness(factor)


def _longrope(values: Mapping[str, Any]) -> RopeScaling:
    short, long = values.get("short_factor"), values.get("long_factor")
    if not isinstance(short, list) or short != long or values.get("attention_factor") != 1.0:
        raise ModelError(
            "rope scaling 'longrope' with two tables, or with attention_factor other than 1, is "
            "not supported: cached keys would carry the angles of another length. Use another "
            "model."
        )
    return RopeScaling("table", table=tuple(float(value) for value in short))
