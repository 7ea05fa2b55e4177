"""Is a datum of a request one that can be computed, and what exactly is asked of it?

raw_from_json(value, where) -> RawDatum      tokens and named arrays, nothing more is checked
check(raw, spec, bounds, where) -> Datum     everything is; raises RequestError with the place

Letters: T tokens of the input, K targets of one position (1 unless a position has several).
Position i predicts targets[i] from tokens[:i + 1]; a target need not be the next token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolute.train.tinker import tensors
from evolute.train.tinker.losses import LossSpec
from evolute.train.tinker.tensors import Array
from evolute.types import PromptTooLong, RequestError
from evolute.types.settings import nearest

INPUTS = ("target_tokens", "weights", "advantages", "logprobs", "mask")
ELSEWHERE = {
    "clip_low_threshold": "thresholds are the same for all tokens here: put it in loss_fn_config",
    "clip_high_threshold": "thresholds are the same for all tokens here: put it in loss_fn_config",
    "sequence_ratio_mask": "it is of a loss that this server does not have",
}
MAX_TARGETS = 128  # of one position


@dataclass(frozen=True, slots=True)
class RawDatum:
    """As it came."""

    tokens: Array  # int64 [T]
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a datum must keep to."""

    vocab_size: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Datum:
    """What is computed. `weights` and `advantages` are those of the loss, masked; of the two the
    loss reads one. Where `is_trained` the loss has a gradient."""

    tokens: Array  # int64 [T]
    targets: Array  # int64 [T, K]
    weights: Array  # float32 [T, K]
    advantages: Array  # float32 [T, K]
    rollout: Array  # float32 [T, K]
    is_trained: Array  # bool [T, K]
    is_flat: bool  # the targets came as [T]

    def __len__(self) -> int:
        return len(self.tokens)


def raw_from_json(value: Any, where: str) -> RawDatum:
    known = {"model_input", "loss_fn_inputs", "model_input_spans", "loss_fn_input_spans"}
    inputs = _mapping(
        _mapping(value, where, known).get("loss_fn_inputs"), f"{where}.loss_fn_inputs"
    )
    tokens = tokens_of(value.get("model_input"), f"{where}.model_input")
    arrays = {
        name: tensors.from_json(tensor, f"{where}.loss_fn_inputs.{name}")
        for name, tensor in inputs.items()
    }
    return RawDatum(tokens, arrays)


def tokens_of(model_input: Any, where: str) -> Array:
    """Token ids of a ModelInput, its chunks joined."""
    chunks = _mapping(model_input, where, {"chunks"}).get("chunks")
    if not isinstance(chunks, list):
        raise RequestError(f"{where}.chunks must be a list.")
    parts = [np.zeros(0, np.int64)]
    for i, chunk in enumerate(chunks):
        place = f"{where}.chunks[{i}]"
        kind = chunk.get("type", "encoded_text") if isinstance(chunk, Mapping) else None
        if isinstance(kind, str) and kind != "encoded_text":
            raise RequestError(f"{place} is of type {kind!r}; this model reads encoded_text alone.")
        ids = _mapping(chunk, place, {"type", "tokens"}).get("tokens")
        parts.append(tensors.from_json({"data": ids, "dtype": "int64"}, f"{place}.tokens"))
    return np.concatenate(parts)


def check(raw: RawDatum, spec: LossSpec, bounds: Bounds, where: str) -> Datum:
    _check_names(raw.inputs, spec, where)
    count = len(raw.tokens)
    if not count:
        raise RequestError(f"{where}.model_input has no tokens.")
    if count > bounds.max_tokens:
        raise PromptTooLong(
            f"{where}.model_input has {count} tokens; at most {bounds.max_tokens} are computed."
        )
    targets = raw.inputs["target_tokens"]
    if targets.dtype.kind != "i":
        raise RequestError(f"{where}: target_tokens must be int64.")
    if targets.ndim not in (1, 2) or len(targets) != count or not targets.size:
        raise RequestError(
            f"{where}: target_tokens has the shape {list(targets.shape)}, but model_input "
            f"{count} tokens; one target (or a row of them) belongs to each token."
        )
    if targets.ndim == 2 and (targets.shape[1] > MAX_TARGETS or spec.name != "cross_entropy"):
        raise RequestError(
            f"{where}: {targets.shape[1]} targets at each position; only cross_entropy takes "
            f"several, and at most {MAX_TARGETS}."
        )
    for name, ids in (("model_input", raw.tokens), ("target_tokens", targets)):
        bad = ids[(ids < 0) | (ids >= bounds.vocab_size)]
        if bad.size:
            raise RequestError(
                f"{where}: token id {int(bad.flat[0])} in {name} is out of vocabulary; ids are 0 "
                f"to {bounds.vocab_size - 1}."
            )
    return _datum(raw, spec, targets, where)


# -- internals ---------------------------------------------------------------


def _datum(raw: RawDatum, spec: LossSpec, targets: Array, where: str) -> Datum:
    shape = targets.shape
    floats = {
        name: _floats(raw.inputs[name], shape, f"{where}: {name}")
        for name in INPUTS[1:]
        if name in raw.inputs
    }
    ones = np.ones(shape, np.float32)
    mask = floats.get("mask", ones)
    if ((mask != 0) & (mask != 1)).any():
        raise RequestError(f"{where}: mask holds {mask.max():g}; it says 0 or 1.")
    weights = floats.get("weights", ones) * mask
    advantages = floats.get("advantages", ones) * mask
    rollout = floats.get("logprobs", np.zeros(shape, np.float32))
    coefficient = weights if spec.coefficient == "weights" else advantages
    is_trained = coefficient != 0
    is_pulled = spec.name == "dro"  # towards the sampler, whatever the advantage is
    if is_pulled or ("mask" in floats and spec.coefficient == "advantages"):
        is_trained = mask != 0
    targets, weights, advantages, rollout, is_trained = (
        array.reshape(len(targets), -1)
        for array in (targets, weights, advantages, rollout, is_trained)
    )
    is_flat = len(shape) == 1
    return Datum(raw.tokens, targets, weights, advantages, rollout, is_trained, is_flat)


def _check_names(inputs: Mapping[str, Array], spec: LossSpec, where: str) -> None:
    read = {"target_tokens", "mask", spec.coefficient}
    needed = ["target_tokens"]
    if spec.coefficient == "advantages":
        read.add("logprobs")
        needed += ["logprobs", "advantages"]
    for name in inputs:
        if name in ELSEWHERE:
            raise RequestError(f"{where}: {name!r} is not supported: {ELSEWHERE[name]}.")
        if name not in INPUTS:
            raise RequestError(f"{where}: unknown input {name!r}. {nearest(name, INPUTS)}")
        if name not in read:
            raise RequestError(f"{where}: {spec.name} does not read {name!r}; leave it out.")
    for name in needed:
        if name not in inputs:
            raise RequestError(f"{where}: {spec.name} needs {name!r} in loss_fn_inputs.")


def _floats(array: Array, shape: tuple[int, ...], where: str) -> Array:
    if array.shape != shape:
        raise RequestError(
            f"{where} has the shape {list(array.shape)}, but target_tokens {list(shape)}."
        )
    if not np.isfinite(array).all():
        raise RequestError(f"{where} holds values that are not finite.")
    return array.astype(np.float32)


def _mapping(value: Any, where: str, known: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where} must be an object.")
    for name in value:
        if known is not None and name not in known:
            raise RequestError(f"{where} has the unknown field {name!r}. {nearest(name, known)}")
    return value
