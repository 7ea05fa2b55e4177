"""Adapters as directories of the PEFT package.

load_peft(dir) -> LoraWeights
save_peft(weights, dir, base_model)

What an adapter of PEFT may be beyond plain LoRA is refused by the name of its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolute.models.config import PARENT
from evolute.models.fields import Fields
from evolute.models.files.json_files import read_json
from evolute.models.files.safetensors_dir import read_tensors
from evolute.models.files.writing import new_directory
from evolute.models.lora import MODULES, LoraConfig, LoraWeights
from evolute.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
NAME = re.compile(
    r"base_model\.model\.(?:model\.)?layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])\.weight"
)
READ = {"r", "lora_alpha", "use_rslora"}
CHECKED = {"peft_type": ("LORA",), "bias": ("none",)}
INITS = ("gaussian", "eva", "orthogonal")  # the others change the base weights as well
HARMLESS = {  # they say where the tensors are, or how they were trained
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "target_modules", "exclude_modules", "runtime_config"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
    *("init_lora_weights", "eva_config"),
}
PICKLES = (".bin", ".pt", ".pth", ".pkl")
Key = tuple[int, str]


def load_peft(directory: str | Path) -> LoraWeights:
    """Read a PEFT adapter. Raises ModelError for what cannot be honoured."""
    directory = Path(directory)
    values = read_json(directory / CONFIG_FILE)
    _refuse(values, directory)
    read = Fields(values, str(directory / CONFIG_FILE))
    _refuse_pickles(directory)
    halves = _halves(read_tensors(directory / TENSOR_FILE))
    config = LoraConfig(
        rank=read.whole("r"),
        alpha=read.real("lora_alpha"),
        targets=tuple(m for m in MODULES if any(key[1] == m for key in halves)),
        rslora=read.truth("use_rslora"),
    )
    return LoraWeights(config, {key: _pair(key, parts, config) for key, parts in halves.items()})


def save_peft(weights: LoraWeights, directory: str | Path, base_model: str) -> None:
    """Write a directory that `peft` loads, in place of an adapter that may be there."""
    from safetensors.torch import save_file

    flat = {
        f"base_model.model.model.layers.{layer}.{PARENT[module]}.{module}.lora_{part}.weight": (
            tensor.detach().contiguous()
        )
        for (layer, module), pair in weights.tensors.items()
        for part, tensor in zip("AB", pair)
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": weights.config.rank,
        "lora_alpha": weights.config.alpha,
        "use_rslora": weights.config.rslora,
        "target_modules": list(weights.config.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with new_directory(Path(directory), replaces=(CONFIG_FILE, TENSOR_FILE)) as partial:
        save_file(flat, partial / TENSOR_FILE, metadata={"format": "pt"})
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


# -- internals ---------------------------------------------------------------


def _refuse(values: Mapping[str, Any], directory: Path) -> None:
    wrong = {key for key, fine in CHECKED.items() if values.get(key, fine[0]) not in fine}
    init = values.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in INITS:
        wrong.add("init_lora_weights")
    known = HARMLESS | READ | CHECKED.keys()
    wrong |= {key for key, value in values.items() if key not in known and value}
    if "peft_type" not in values:
        raise ModelError(f"{directory}: {CONFIG_FILE} lacks 'peft_type'; is it a PEFT adapter?")
    if wrong:
        found = ", ".join(f"{key}={values[key]!r}" for key in sorted(wrong))
        raise ModelError(
            f"{directory}: the adapter sets {found}; only plain LoRA is supported. Merge it into "
            "its base model with peft, and load that."
        )


def _refuse_pickles(directory: Path) -> None:
    """Loading a pickle runs the code that is in it."""
    if not (directory / TENSOR_FILE).exists():
        pickles = [p.name for end in PICKLES for p in sorted(directory.glob(f"*{end}"))]
        if pickles:
            raise ModelError(
                f"{directory} holds {pickles[0]}, a pickle, which can run any code when it is "
                f"loaded; only {TENSOR_FILE} is read. Save the adapter as safetensors."
            )


def _halves(flat: Mapping[str, Tensor]) -> dict[Key, dict[str, Tensor]]:
    halves: dict[Key, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        match = NAME.fullmatch(name)
        if not match or PARENT.get(match[3]) != match[2]:
            raise ModelError(f"adapter tensor {name!r} belongs to no layer that we adapt.")
        halves.setdefault((int(match[1]), match[3]), {})[match[4]] = tensor.float()
    if not halves:
        raise ModelError("the adapter has no tensors; train or fetch it again.")
    return halves


def _pair(key: Key, parts: Mapping[str, Tensor], config: LoraConfig) -> tuple[Tensor, Tensor]:
    shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    a, b = parts.get("A"), parts.get("B")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2:
        raise ModelError(f"adapter of layer {key[0]}, {key[1]}, is {shapes}; A and B are needed.")
    if a.shape[0] != config.rank or b.shape[1] != config.rank:
        raise ModelError(
            f"adapter of layer {key[0]}, {key[1]}, has shapes {shapes}, but its config says rank "
            f"{config.rank}; the two files are of different adapters. Fetch it again."
        )
    return a, b
