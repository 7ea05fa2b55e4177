"""A model, with or without an adapter merged in, as a directory that others load.

export_model(model, directory, adapter=None)   config, safetensors, tokenizer, chat template
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evolute.models.config import tensor_shapes
from evolute.models.files.config_json import to_hugging_face
from evolute.models.files.writing import new_directory
from evolute.models.loading import LoadedModel
from evolute.models.lora import LoraWeights
from evolute.models.tokenizer import ChatTokenizer
from evolute.types import ConfigError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_SHARD_BYTES = 4 << 30


def export_model(
    model: LoadedModel,
    directory: str | Path,
    adapter: LoraWeights | None = None,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a Hugging Face directory that transformers and `load_model` read.

    In float32 nothing is lost of a GGUF file's weights, and a merged weight is the float32 next
    to the exact sum. Of the weights one shard is in memory at a time. Raises ConfigError when
    the directory holds files already, or the adapter does not fit.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} cannot be written; choose of {', '.join(DTYPES)}.")
    if adapter is not None:
        adapter.check(model.config)
    target = Path(directory)
    with new_directory(target) as partial:
        _write_json(partial / "config.json", to_hugging_face(model.config, dtype))
        _write_weights(partial, model, adapter, dtype, max_shard_bytes)
        _write_tokenizer(partial, model.tokenizer, model.config.context)
        ends = model.tokenizer.stop_token_ids - {model.tokenizer.eos_token_id}
        generation = {
            "bos_token_id": model.config.bos_token_id,
            "eos_token_id": [model.tokenizer.eos_token_id, *sorted(ends)],
        }
        _write_json(partial / "generation_config.json", generation)
    return target


# -- internals ---------------------------------------------------------------


def _write_weights(
    directory: Path, model: LoadedModel, adapter: LoraWeights | None, dtype: str, limit: int
) -> None:
    size = DTYPES[dtype].itemsize
    shapes = tensor_shapes(model.config)
    shards = _shards({n: size * torch.Size(shape).numel() for n, shape in shapes.items()}, limit)
    place: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            _their_name(name): _tensor(model, adapter, name).to(DTYPES[dtype]) for name in names
        }
        file = file if len(shards) > 1 else "model.safetensors"
        save_file(tensors, directory / file, metadata={"format": "pt"})
        place |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(size * torch.Size(shape).numel() for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": place}
        _write_json(directory / "model.safetensors.index.json", index)


def _shards(bytes_by_name: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, as many to a file as its limit allows, at least one."""
    shards: list[list[str]] = []
    used = 0
    for name, num_bytes in bytes_by_name.items():
        if not shards or used + num_bytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += num_bytes
    return shards


def _tensor(model: LoadedModel, adapter: LoraWeights | None, name: str) -> Tensor:
    weight = model.weights.dense(name)
    merged = weight if adapter is None else adapter.merged(name, weight)
    return merged.detach().cpu().contiguous()


def _their_name(name: str) -> str:
    return name if name == "lm_head.weight" else f"model.{name}"


def _write_tokenizer(directory: Path, tokenizer: ChatTokenizer, context: int) -> None:
    tokenizer.tokenizers.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(tokenizer.template.source, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokenizer.eos,
    }
    bos = {"bos_token": tokenizer.bos} if tokenizer.bos else {}
    _write_json(directory / "tokenizer_config.json", settings | bos)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
