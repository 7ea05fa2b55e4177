"""Can these settings of a run work at all? Names, ranges, and pairs that need each other."""

from __future__ import annotations

from evolute.models import LoraConfig
from evolute.train.algorithms import (
    ESTIMATORS,
    LOSSES,
    REDUCTIONS,
    RULES,
    TOKEN_RULES,
    LossConfig,
    OffPolicyConfig,
)
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError
from evolute.types.settings import nearest


def check_values(config: TrainConfig) -> None:
    """Raise ConfigError with what to change."""
    _check_names(config)
    _check_run(config)
    _check_credit(config)
    _check_loss(config.algorithm.loss)
    _check_off_policy(config.algorithm.off_policy)
    _check_schedule(config)


def _check_names(config: TrainConfig) -> None:
    algorithm = config.algorithm
    for value, known, what in (
        (algorithm.advantage, {**RULES, **TOKEN_RULES}, "algorithm.advantage"),
        (algorithm.reduction, REDUCTIONS, "algorithm.reduction"),
        (algorithm.loss.name, LOSSES, "algorithm.loss.name"),
        (algorithm.kl.kind, ESTIMATORS, "algorithm.kl.kind"),
    ):
        if value not in known:
            raise ConfigError(f"{what} is {value!r}. {nearest(value, known)}")
    loss = LOSSES[algorithm.loss.name]
    if not loss.uses_advantages:
        raise ConfigError(
            f"algorithm.loss.name is {algorithm.loss.name!r}, which imitates every rollout "
            "whatever its reward. Choose another loss, or `train sft` on the rollouts you want."
        )
    if loss.reduction and loss.reduction != algorithm.reduction:
        raise ConfigError(
            f"the loss {algorithm.loss.name!r} is made of means of sequences; set "
            f"algorithm.reduction = {loss.reduction!r}."
        )


def _check_run(config: TrainConfig) -> None:
    if config.samples_per_prompt < 2 and config.algorithm.advantage in RULES:
        raise ConfigError(
            "samples_per_prompt is 1: a group of one has no advantage; use at least 2."
        )
    for name in ("steps", "prompts_per_step", "epochs", "mini_batches", "micro_batch_tokens"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 1.")
    if config.samples_per_prompt < 1:
        raise ConfigError("samples_per_prompt must be at least 1.")
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


def _check_credit(config: TrainConfig) -> None:
    algorithm, kl, chosen = config.algorithm, config.algorithm.kl, config.algorithm.selection
    for key, value, low, high in (
        ("gamma", algorithm.gamma, 0.0, 1.0),
        ("lam", algorithm.lam, 0.0, 1.0),
        ("selection.min_useful_frac", chosen.min_useful_frac, 0.0, 1.0),
    ):
        if not low <= value <= high:
            raise ConfigError(f"algorithm.{key} is {value}; it must lie between {low} and {high}.")
    if algorithm.advantage == "distillation" and not algorithm.teacher:
        raise ConfigError("advantage 'distillation' needs algorithm.teacher, a model.")
    if min(kl.loss, kl.reward, kl.target, chosen.penalty_tokens, algorithm.max_length) < 0:
        raise ConfigError(
            "algorithm.kl.*, max_length and selection.penalty_tokens cannot be negative."
        )
    if kl.loss > 0 and kl.reward > 0:
        raise ConfigError("algorithm.kl.loss and kl.reward would count the KL twice; keep one.")
    if kl.horizon < 1 or chosen.max_batches < 1:
        raise ConfigError("algorithm.kl.horizon and selection.max_batches must be at least 1.")
    longest = algorithm.max_length or config.max_new_tokens
    if algorithm.reduction == "seq_mean_token_sum_norm" and not longest:
        raise ConfigError(
            "seq_mean_token_sum_norm divides by a constant; set algorithm.max_length to it."
        )
    if chosen.penalty_tokens and config.max_new_tokens < chosen.penalty_tokens:
        raise ConfigError(
            f"the overlong penalty acts on the last {chosen.penalty_tokens} of max_new_tokens, "
            f"which is {config.max_new_tokens}; set it to a larger number."
        )
    if chosen.dynamic != "off" and config.samples_per_prompt < 2:
        raise ConfigError("dynamic sampling looks for contrast; samples_per_prompt must be >= 2.")


def _check_loss(loss: LossConfig) -> None:
    share = loss.covariance_share()
    if min(loss.bounds()) < 0 or not 0 < share <= 1 or loss.cov_low >= loss.cov_high:
        raise ConfigError(
            "algorithm.loss: clip_low and clip_high cannot be negative, cov_frac lies in (0, 1], "
            "cov_low below cov_high."
        )
    if min(loss.tau_positive, loss.tau_negative) <= 0 or loss.dual_clip <= 1:
        raise ConfigError("algorithm.loss: tau_* must be above 0, and dual_clip above 1.")


def _check_off_policy(bounds: OffPolicyConfig) -> None:
    for part in ("outlier", "token", "geometric", "product"):
        low, high = getattr(bounds, part + "_low"), getattr(bounds, part + "_high")
        if low and not high:
            raise ConfigError(
                f"algorithm.off_policy.{part}_low does nothing without {part}_high; set both."
            )
        if low < 0 or high < 0 or low > high:
            raise ConfigError(f"algorithm.off_policy.{part}_low must lie between 0 and its high.")
    if bounds.truncate and bounds.truncate_sequence:
        raise ConfigError(
            "off_policy.truncate and truncate_sequence would correct twice; keep one of them."
        )


def _check_schedule(config: TrainConfig) -> None:
    chosen = config.asynchrony
    for name, value, least in (
        ("max_staleness", chosen.max_staleness, 0),
        ("max_requeues", chosen.max_requeues, 0),
        ("max_groups", chosen.max_groups, 0),
        ("min_groups", chosen.min_groups, 1),
        ("burst", chosen.burst, 0),
    ):
        if value < least:
            raise ConfigError(f"asynchrony.{name} is {value}; it must be at least {least}.")
    if chosen.look_s <= 0 or config.episode_timeout_s <= 0:
        raise ConfigError("asynchrony.look_s and episode_timeout_s must be above 0 seconds.")
    if config.stall_timeout_s < config.episode_timeout_s:
        raise ConfigError(
            f"stall_timeout_s is {config.stall_timeout_s:g}, but a single episode may take "
            f"episode_timeout_s = {config.episode_timeout_s:g} seconds; make it at least that."
        )
    most = config.prompts_per_step * (chosen.max_staleness + 1)
    if chosen.max_groups > most:
        raise ConfigError(
            f"asynchrony.max_groups is {chosen.max_groups}; staleness admits no more than "
            f"prompts_per_step x (max_staleness + 1) = {most} groups."
        )
    if chosen.min_groups > (chosen.max_groups or most):
        raise ConfigError("asynchrony.min_groups exceeds the most groups in flight; lower it.")
    _check_dynamic(config)


def _check_dynamic(config: TrainConfig) -> None:
    """Dynamic sampling beside a schedule that takes groups as they end."""
    dynamic = config.algorithm.selection.dynamic
    if config.schedule != "asynchronous" or dynamic == "off":
        return
    if dynamic == "replace":
        raise ConfigError(
            "dynamic = 'replace' looks at whole batches, and the schedule 'asynchronous' has none; "
            "use 'filter'."
        )
    if config.asynchrony.max_staleness == 0:
        raise ConfigError(
            "with max_staleness = 0 the schedule 'asynchronous' equals the synchronous one, which "
            "draws whole batches for dynamic sampling; set schedule = 'synchronous'."
        )
