"""Hugging Face directories: config.json and one or several safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from evolute.models.weights import ModelWeights, Weight
from evolute.types import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the directory. Raises ModelError when missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    return dict(value)


def read_weights(directory: Path) -> ModelWeights:
    """All tensors, whether sharded or not, under names without "model."."""
    tensors: dict[str, Weight] = {}
    for file in _files(directory):
        try:
            shard = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} cannot be read ({error}); it is damaged or missing. Fetch it again."
            ) from error
        tensors |= {name.removeprefix("model."): tensor for name, tensor in shard.items()}
    return ModelWeights(tensors)


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return [directory / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    single = directory / "model.safetensors"
    if not single.exists():
        raise ModelError(
            f"{directory} has neither model.safetensors nor its index; pickled weights (.bin) are "
            "refused. Convert them to safetensors."
        )
    return [single]
