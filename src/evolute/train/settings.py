"""Settings of a training run, and a check that each of them will do something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.models import LoraConfig
from evolute.train.algorithms import (
    CLIPPING,
    LOSSES,
    REDUCTIONS,
    RULES,
    LossConfig,
    OffPolicyConfig,
)
from evolute.types import ConfigError
from evolute.types.settings import nearest


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW."""

    lr: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    warmup_steps: int = 2
    decay: Literal["constant", "linear"] = "linear"  # linear: to a tenth at the last step
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class AlgorithmConfig:
    """Advantage rule, loss, reduction and off-policy correction."""

    advantage: str = "grpo"
    reduction: str = "token_mean"
    loss: LossConfig = field(default_factory=LossConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One reinforcement-learning run: task, sampling, credit, update, checkpoints."""

    model: str = "smollm2-135m"
    task: str = "addition-2"
    seed: int = 0
    steps: int = 16
    prompts_per_step: int = 16
    samples_per_prompt: int = 8
    max_new_tokens: int = 0  # 0: the task's own
    temperature: float = 1.0
    epochs: int = 1  # passes over each batch of rollouts
    mini_batches: int = 1  # optimizer steps a pass
    micro_batch_tokens: int = 1200  # bounds memory, never the result
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"  # mixed: bfloat16 gradients
    fused: bool = True  # the decoder with gradients by hand; false: the plain one
    skip_zero_advantage: bool = True  # rollouts without a gradient are not computed
    update_nice: int = 10  # 0 to 19: how far updates step back behind serving (Linux)
    train_retries: int = 2  # tries again of an episode whose infrastructure failed
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    method: Literal["lora", "full"] = "lora"  # full: every weight, published as the base
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_effective(self)


def check_effective(config: TrainConfig) -> None:
    """Raise ConfigError for unknown names and for settings that would silently do nothing."""
    algorithm, loss = config.algorithm, config.algorithm.loss
    for value, known, what in (
        (algorithm.advantage, RULES, "algorithm.advantage"),
        (algorithm.reduction, REDUCTIONS, "algorithm.reduction"),
        (loss.name, LOSSES, "algorithm.loss.name"),
    ):
        if value not in known:
            raise ConfigError(f"{what} is {value!r}. {nearest(value, known)}")
    default = LossConfig()
    if loss.name not in CLIPPING and (loss.clip_low, loss.clip_high) != (
        default.clip_low,
        default.clip_high,
    ):
        raise ConfigError(f"algorithm.loss.clip_* do nothing with loss {loss.name!r}; remove them.")
    if loss.name != "dual_clip" and loss.dual_clip != default.dual_clip:
        raise ConfigError("algorithm.loss.dual_clip does nothing unless loss.name = 'dual_clip'.")
    if config.samples_per_prompt < 2:
        raise ConfigError(
            "samples_per_prompt is 1: a group of one has no advantage; use at least 2."
        )
    for name in ("steps", "prompts_per_step", "epochs", "mini_batches", "micro_batch_tokens"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 1.")
    if config.mini_batches > config.prompts_per_step:
        raise ConfigError("mini_batches exceeds prompts_per_step; a group cannot be divided.")
    if config.precision != "float32" and not (config.fused and config.method == "lora"):
        raise ConfigError(f"precision {config.precision!r} needs fused = true and method = 'lora'.")
    if config.method == "full" and config.lora != LoraConfig():
        raise ConfigError("lora.* do nothing with method 'full'; remove them.")
    if not 0 <= config.update_nice <= 19:
        raise ConfigError(f"update_nice is {config.update_nice}; it must lie between 0 and 19.")
    if config.temperature <= 0:
        raise ConfigError("temperature must be above 0: greedy siblings are all equal.")
