"""Hugging Face directories: JSON files, and tensors in one or several safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from evolute.models.weights import ModelWeights, Weight
from evolute.types import ModelError

DERIVED = ".rotary_emb.inv_freq"  # old Llama checkpoints carry it in each layer


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
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); it is damaged or missing. Fetch it again."
        ) from error
    return tensors


def read_weights(directory: Path, *, is_tied: bool) -> ModelWeights:
    """All tensors, sharded or not, under names without "model."; a tied output only once."""
    tensors: dict[str, Weight] = {}
    for file in _files(directory):
        for name, tensor in read_tensors(file).items():
            if not name.endswith(DERIVED):
                tensors[name.removeprefix("model.")] = tensor
    head, embedding = tensors.get("lm_head.weight"), tensors.get("embed_tokens.weight")
    if is_tied and isinstance(head, Tensor) and isinstance(embedding, Tensor):
        if head.shape != embedding.shape or not head.equal(embedding):
            raise ModelError(
                f"{directory} says tie_word_embeddings, but lm_head.weight is not the embedding. "
                "Set tie_word_embeddings to false in config.json."
            )
        del tensors["lm_head.weight"]
    return ModelWeights(tensors)


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
