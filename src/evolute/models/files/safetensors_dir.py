"""Hugging Face directories: JSON files, and tensors in one or several safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from evolute.models.weights import ModelWeights, Weight
from evolute.types import ModelError

SMALL_BYTES = 64 << 20  # adapters; read whole, since safetensors 0.8.0 loses two numbers for each
# tensor that it reads from a file by itself, and adapters come by the thousand
DERIVED = ".rotary_emb.inv_freq"  # old Llama checkpoints carry it in each layer

MALFORMED = (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError)


def read_text(path: Path) -> str:
    """A text file of the directory. Raises ModelError when missing or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Fetch it again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the directory. Raises ModelError when missing or damaged."""
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is not readable JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again.")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """One safetensors file. Raises ModelError when missing or damaged."""
    try:
        is_small = path.stat().st_size <= SMALL_BYTES
        tensors: dict[str, Tensor] = load(path.read_bytes()) if is_small else load_file(path)
    except (*MALFORMED, OSError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); it is damaged or missing. Fetch it again."
        ) from error
    return tensors


def read_weights(directory: Path, *, is_tied: bool) -> ModelWeights:
    """All tensors, sharded or not, under names without "model."; a tied output only once."""
    tensors: dict[str, Tensor] = {}
    for file in _files(directory):
        tensors |= read_tensors(file)
    return named_weights(tensors, is_tied=is_tied, source=str(directory))


def parse_weights(parts: Iterable[bytes], *, is_tied: bool) -> ModelWeights:
    """Weights out of safetensors bytes, in one part or several. Raises ModelError."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        is_header = part[8:9] == b"{"  # after its length, whose first byte may be a pickle's
        if not is_header and (part[:1] == b"\x80" or part[:2] == b"PK"):
            raise ModelError(
                "the weights are a pickle, which can run any code when it is loaded; send "
                "safetensors bytes."
            )
        try:
            found: dict[str, Tensor] = load(part)
        except MALFORMED as error:
            raise ModelError(
                f"the weights are no safetensors bytes: {error}. Send those of "
                "safetensors.torch.save."
            ) from error
        if twice := tensors.keys() & found.keys():
            raise ModelError(f"{min(twice)!r} comes in two parts; send each tensor once.")
        tensors |= found
    return named_weights(tensors, is_tied=is_tied, source="the upload")


def named_weights(tensors: Mapping[str, Tensor], *, is_tied: bool, source: str) -> ModelWeights:
    """Under names without "model.", a tied output only once."""
    named: dict[str, Weight] = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(DERIVED)
    }
    head, embedding = named.get("lm_head.weight"), named.get("embed_tokens.weight")
    if is_tied and isinstance(head, Tensor) and isinstance(embedding, Tensor):
        if head.shape != embedding.shape or not head.equal(embedding):
            raise ModelError(
                f"{source} says tie_word_embeddings, but lm_head.weight is not the embedding. "
                "Set tie_word_embeddings to false in config.json."
            )
        del named["lm_head.weight"]
    return ModelWeights(named)


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise ModelError(
                f"{index} has no weight_map from tensors to files beside it; fetch it again."
            )
        return [directory / name for name in sorted(names)]
    single = directory / "model.safetensors"
    if not single.exists():
        raise ModelError(
            f"{directory} has neither model.safetensors nor its index; pickled weights (.bin) are "
            "refused. Convert them to safetensors."
        )
    return [single]
