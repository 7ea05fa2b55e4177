"""Settings of a training run; that each of them acts is checked in `effective.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.agents import AgentConfig, DispatchConfig
from evolute.envs.tools.registry import TOOL_TASKS
from evolute.models import LoraConfig
from evolute.train.algorithms import (
    LOSSES,
    CriticConfig,
    KlConfig,
    LossConfig,
    OffPolicyConfig,
    SelectionConfig,
)
from evolute.train.settings_ray import RayConfig, SyncConfig


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
    """Advantage rule, loss, reduction, KL, off-policy correction, selection of rollouts."""

    advantage: str = "grpo"
    reduction: str = "token_mean"
    anchor: Literal["auto", "policy", "rollout"] = "auto"  # of the ratio; auto: see docs/train.md
    max_length: int = 0  # the constant of seq_mean_token_sum_norm; 0: max_new_tokens
    gamma: float = 1.0  # gae, reinforce++: discount a token
    lam: float = 1.0  # gae: lambda
    normalize: bool = False  # advantages to mean 0, variance 1 over the batch's tokens
    teacher: str = ""  # distillation: a model with the same tokenizer
    loss: LossConfig = field(default_factory=LossConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)


Use = Literal["gradient", "statistics", "reward", "nothing"]


@dataclass(frozen=True, slots=True)
class FailureConfig:
    """What a rollout that did not end well is used for, by class; each use includes those after it.

    gradient: it is trained on; statistics: it counts in its group's mean and spread; reward: it
    counts in the reward that is reported; nothing: it is left out (and was tried again).
    """

    truncated: Use = "gradient"  # cut by tokens or turns: the model's doing
    engine: Use = "nothing"  # the service that generates
    environment: Use = "nothing"  # the world, or a tool in it
    grader: Use = "nothing"  # the verifier
    timeout: Use = "nothing"  # a limit of time, whoever used it up
    other: Use = "nothing"


@dataclass(frozen=True, slots=True)
class AsynchronyConfig:
    """How rollouts and updates overlap; a group is all rollouts of one problem."""

    max_staleness: int = 4  # asynchronous: updates between a group's start and its use, on average
    stale: Literal["train", "drop", "requeue"] = "train"  # a group that is staler all the same
    max_requeues: int = 2  # requeue: of one problem, which then is trained on however stale
    max_groups: int = 0  # in flight at once; 0: prompts_per_step x (max_staleness + 1)
    adaptive: bool = True  # fewer groups in flight while the engine is overloaded
    min_groups: int = 1  # adaptive: never fewer
    burst: int = 0  # adaptive: groups begun between two looks; 0: as many as max_groups
    look_s: float = 0.25  # adaptive: seconds between two looks at the engine


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
    schedule: Literal["synchronous", "one_step_off", "asynchronous"] = "synchronous"
    episode_timeout_s: float = 1800.0  # one try of an episode; then it has failed
    stall_timeout_s: float = 7200.0  # nothing has moved for so long: the run stops and says why
    replay: str = ""  # run directory whose rollouts are trained on again, in their order
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    asynchrony: AsynchronyConfig = field(default_factory=AsynchronyConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)  # of tasks with tools
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)  # of tasks with tools
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    method: Literal["lora", "full"] = "lora"  # full: every weight, published as the base
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        from evolute.train.effective import check_effective

        check_effective(self)

    @property
    def has_tools(self) -> bool:
        """The task's problems are worked on by an agent with tools."""
        return self.task.partition("?")[0] in TOOL_TASKS

    @property
    def max_groups(self) -> int:
        """Groups in flight at most, under the asynchronous schedule."""
        return self.asynchrony.max_groups or self.prompts_per_step * (
            self.asynchrony.max_staleness + 1
        )

    @property
    def is_off_policy(self) -> bool:
        """Some tokens are sampled by older weights than those that are trained."""
        if self.schedule == "asynchronous":
            return self.asynchrony.max_staleness > 0
        return self.schedule == "one_step_off"

    @property
    def is_single_pass(self) -> bool:
        """One optimizer step a batch: the policy is still the one of the scores."""
        return self.epochs == self.mini_batches == 1

    @property
    def anchor(self) -> Literal["policy", "rollout"]:
        """Whose log-probabilities the ratio is taken to. The loss may have the last word."""
        if LOSSES[self.algorithm.loss.name].anchor == "rollout":
            return "rollout"
        if self.algorithm.anchor != "auto":
            return self.algorithm.anchor
        return "policy" if self.is_single_pass else "rollout"

    @property
    def is_ratio_one(self) -> bool:
        """The first ratio, which is then the only one, is exactly 1."""
        return self.is_single_pass and self.anchor == "policy"
