"""Tensors of a Hugging Face directory, in one or several safetensors files.

read_weights(directory), parse_weights(bytes) -> ModelWeights
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from evolute.models.files.json_files import read_json
from evolute.models.weights import ModelWeights, Weight
from evolute.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

SMALL_BYTES = 64 << 20  # adapters; read whole, since safetensors 0.8.0 loses two numbers for each
# tensor that it reads from a file by itself, and adapters come by the thousand
DERIVED = ".rotary_emb.inv_freq"  # old Llama checkpoints carry it in each layer

MALFORMED = (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """One safetensors file. Raises ModelError when missing or damaged."""
    from safetensors.torch import load, load_file

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
    from safetensors.torch import load

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
    named = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(DERIVED)
    }
    head, embedding = named.get("lm_head.weight"), named.get("embed_tokens.weight")
    if is_tied and head is not None and embedding is not None:
        if head.shape != embedding.shape or not head.equal(embedding):
            raise ModelError(
                f"{source} says tie_word_embeddings, but lm_head.weight is not the embedding. "
                "Set tie_word_embeddings to false in config.json."
            )
        del named["lm_head.weight"]
    weights: dict[str, Weight] = dict(named)
    return ModelWeights(weights)


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
