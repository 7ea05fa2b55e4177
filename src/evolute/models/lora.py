"""LoRA adapters: y += scale * (x A^T) B^T on chosen linear layers (Hu et al. 2021).

LoraWeights.init(config, model)      A uniform, B zero: the base model
load_peft(dir) / save_peft(w, dir)   the PEFT package's directories
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolute.models.config import ModelConfig
from evolute.models.files.safetensors_dir import read_json
from evolute.models.weights import fingerprint
from evolute.types import ConfigError, ModelError

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PARENT = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in MODULES}
UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")
Key = tuple[int, str]


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Rank, strength and place of an adapter. scale = alpha / rank (/ sqrt(rank) if rslora)."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = MODULES
    rslora: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.targets) - set(MODULES)
        if unknown or self.rank < 1:
            raise ConfigError(
                f"lora: rank {self.rank} must be at least 1, and targets {sorted(unknown)} are "
                f"unknown; known are {', '.join(MODULES)}."
            )

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """A [R, K] and B [N, R] by (layer, module); modules may be missing."""

    config: LoraConfig
    tensors: dict[Key, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def init(cls, config: LoraConfig, model: ModelConfig, seed: int = 0) -> LoraWeights:
        """The adapter that changes nothing yet."""
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(model.num_layers):
            for module in config.targets:
                outputs, inputs = model.linear_shape(module)
                bound = 1 / math.sqrt(inputs)
                a = torch.empty(config.rank, inputs).uniform_(-bound, bound, generator=generator)
                tensors[layer, module] = (a, torch.zeros(outputs, config.rank))
        return cls(config, tensors)

    @property
    def scale(self) -> float:
        return self.config.scale

    def parameters(self) -> list[Tensor]:
        return [tensor for pair in self.tensors.values() for tensor in pair]

    def clone(self) -> LoraWeights:
        """A detached copy, which later training does not change."""
        copied = {
            key: (a.detach().clone(), b.detach().clone()) for key, (a, b) in self.tensors.items()
        }
        return LoraWeights(self.config, copied)

    def fingerprint(self) -> str:
        """sha256 over names, values and scale."""
        named = [
            (f"{layer}.{module}.{part}", tensor)
            for (layer, module), pair in sorted(self.tensors.items())
            for part, tensor in zip("AB", pair)
        ]
        return fingerprint([*named, ("scale", torch.tensor(self.scale))])

    def delta(self, layer: int, module: str, x: Float[Tensor, "T K"]) -> Tensor | None:
        """The adapter's part of one linear layer; a `Delta` of the decoder."""
        pair = self.tensors.get((layer, module))
        return None if pair is None else ((x @ pair[0].T) @ pair[1].T) * self.scale


def load_peft(directory: str | Path) -> LoraWeights:
    """Read a PEFT adapter. Raises ModelError for what cannot be honoured."""
    directory = Path(directory)
    values = read_json(directory / "adapter_config.json")
    used = [name for name in UNSUPPORTED if values.get(name)]
    if values.get("peft_type") != "LORA" or used or values.get("bias", "none") != "none":
        raise ModelError(
            f"{directory}: only plain LoRA adapters are supported, not {used or 'this kind'}."
        )
    try:
        flat = load_file(directory / "adapter_model.safetensors")
    except Exception as error:
        raise ModelError(
            f"{directory}: adapter_model.safetensors cannot be read: {error}"
        ) from error
    halves: dict[Key, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        layer, module, part = _parse(name)
        halves.setdefault((layer, module), {})[part] = tensor.float()
    config = LoraConfig(
        rank=int(values["r"]),
        alpha=float(values["lora_alpha"]),
        targets=tuple(m for m in MODULES if any(key[1] == m for key in halves)),
        rslora=bool(values.get("use_rslora")),
    )
    return LoraWeights(config, {key: (pair["A"], pair["B"]) for key, pair in halves.items()})


def save_peft(weights: LoraWeights, directory: str | Path, base_model: str) -> None:
    """Write a directory that `peft` loads."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    flat = {
        f"base_model.model.model.layers.{layer}.{PARENT[module]}.{module}.lora_{part}.weight": (
            tensor.detach().contiguous()
        )
        for (layer, module), pair in weights.tensors.items()
        for part, tensor in zip("AB", pair)
    }
    save_file(flat, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
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
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _parse(name: str) -> tuple[int, str, str]:
    parts = name.split(".")
    try:
        layer = int(parts[parts.index("layers") + 1])
        module, part = parts[-3], parts[-2].removeprefix("lora_")
    except (ValueError, IndexError):
        module, part, layer = "", "", 0
    if module not in MODULES or part not in ("A", "B"):
        raise ModelError(f"adapter tensor {name!r} belongs to no layer that we adapt.")
    return layer, module, part
