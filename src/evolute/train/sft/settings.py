"""Settings of a supervised run, and a check that each of them will do something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.models import LoraConfig
from evolute.train.settings import OptimizerConfig
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class SftConfig:
    """One supervised run: model, data, what is learned of it, update, checkpoints."""

    model: str = "smollm2-135m"
    data: tuple[str, ...] = ()  # JSON lines; looked for here, then beside the recipe
    mix: tuple[float, ...] = ()  # shares of the files; empty: as many as they have rows
    train_on: Literal["assistant", "last", "solution", "all"] = "assistant"
    epochs: int = 3
    batch_size: int = 16  # examples a step
    max_tokens: int = 0  # of an example; 0: the model's context
    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    micro_batch_tokens: int = 4096  # bounds memory, never the result
    method: Literal["lora", "full"] = "lora"  # full: every weight
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"  # mixed: bfloat16 gradients
    fused: bool = True  # the decoder with gradients by hand; false: the plain one
    seed: int = 0
    checkpoint_every: int = 10  # steps; the last one always has one
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_tokens", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_tokens < 0:
            raise ConfigError(f"max_tokens is {self.max_tokens}; 0 is the model's context.")
        if self.mix and len(self.mix) != len(self.data):
            raise ConfigError(f"mix has {len(self.mix)} shares for {len(self.data)} data files.")
        if self.precision != "float32" and not (self.fused and self.method == "lora"):
            raise ConfigError(
                f"precision {self.precision!r} needs fused = true and method = 'lora'."
            )
        if self.method == "full" and self.lora != LoraConfig():
            raise ConfigError("lora.* do nothing with method 'full'; remove them.")
