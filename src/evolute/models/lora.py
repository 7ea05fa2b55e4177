"""LoRA adapters: y += scale * (x A^T) B^T on chosen linear layers (Hu et al. 2021).

LoraWeights.init(config, model)   A uniform, B zero: the base model
merge(weights, adapter)           the same model without an adapter
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from evolute.models.config import ATTENTION, MLP, PARENT, ModelConfig
from evolute.models.weights import ModelWeights, Weight, fingerprint
from evolute.types import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

MODULES = (*ATTENTION, *MLP)
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
        import torch

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

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """Tensors in a fixed order, named LAYER.MODULE.A and LAYER.MODULE.B."""
        return [
            (f"{layer}.{module}.{part}", tensor)
            for (layer, module), pair in self.tensors.items()
            for part, tensor in zip("AB", pair)
        ]

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
        return fingerprint([*named, ("scale", np.array(self.scale, np.float32))])

    def delta(self, layer: int, module: str, x: Float[Tensor, "T K"]) -> Tensor | None:
        """The adapter's part of one linear layer; a `Delta` of the decoder."""
        pair = self.tensors.get((layer, module))
        if pair is None:
            return None
        a, b = (half.to(x.device, x.dtype) for half in pair)
        return ((x @ a.T) @ b.T) * self.scale

    def check(self, model: ModelConfig) -> None:
        """Raises ConfigError unless every matrix fits a layer of `model`."""
        for (layer, module), (a, b) in self.tensors.items():
            fits = layer < model.num_layers and module in MODULES
            expected = model.linear_shape(module) if fits else None
            if expected != (b.shape[0], a.shape[1]):
                raise ConfigError(
                    f"the adapter changes {module} of layer {layer} with (outputs, inputs) "
                    f"{(b.shape[0], a.shape[1])}; the model has {model.num_layers} layers and "
                    f"there {expected}. The adapter is of another model."
                )

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """`weight`, of that name, with the adapter's part added: exact, then rounded once."""
        parts = name.split(".")
        key = (int(parts[1]), parts[-2]) if len(parts) == 5 and parts[-1] == "weight" else None
        pair = self.tensors.get(key) if key else None
        if pair is None:
            return weight
        a, b = (half.detach().to(weight.device).double() for half in pair)
        return (weight.double() + self.scale * (b @ a)).float()


def merge(weights: ModelWeights, adapter: LoraWeights) -> ModelWeights:
    """The weights with the adapter added; layers without one stay as they are, quantised too."""
    merged: dict[str, Weight] = dict(weights)
    for layer, module in adapter.tensors:
        name = f"layers.{layer}.{PARENT[module]}.{module}.weight"
        merged[name] = adapter.merged(name, weights.dense(name))
    return ModelWeights(merged)
