"""Which settings of a run act, and which would silently do nothing?

    check_effective(config)        ConfigError that names every changed setting without effect
    effective_settings(config)     a line for people about each, as `train rl` shows at start

ROWS has each key under `algorithm`, `asynchrony`, `failures`, `agent`, `dispatch`, `sync` and
`ray`, and those that choose a schedule, with the condition under which it acts. One that is left
at its default may be idle; one that was changed may not.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from evolute.train.algorithms import LOSSES, RULES, TOKEN_RULES
from evolute.train.effective_control import (
    AGENTS,
    CONTROL_ROWS,
    NO_TOOLS,
    PLAIN,
    control_notes,
)
from evolute.train.effective_ray import OFF, RAY_ROWS, check_ray, ray_notes
from evolute.train.settings import TrainConfig
from evolute.train.valid import check_values
from evolute.types import ConfigError

Acts = Callable[[TrainConfig], bool]


def always(config: TrainConfig) -> bool:
    return True


def _rule_reads(name: str) -> Acts:
    def acts(config: TrainConfig) -> bool:
        rule = config.algorithm.advantage
        return rule in TOKEN_RULES and name in TOKEN_RULES[rule].reads

    return acts


def _loss_reads(name: str) -> Acts:
    return lambda c: name in LOSSES[c.algorithm.loss.name].reads


def _bounds(config: TrainConfig) -> bool:
    return LOSSES[config.algorithm.loss.name].clip is not None and not config.is_ratio_one


def _name(config: TrainConfig) -> bool:
    return not (config.is_ratio_one and LOSSES[config.algorithm.loss.name].needs_ratio)


def _rewards(config: TrainConfig) -> bool:
    rule = config.algorithm.advantage
    return rule in RULES or TOKEN_RULES[rule].uses_rewards


def _critic(config: TrainConfig) -> bool:
    rule = config.algorithm.advantage
    return rule in TOKEN_RULES and TOKEN_RULES[rule].needs == "values"


PASSES = "set epochs or mini_batches to 2 or more, or anchor = 'rollout'"
ONE = f"with one pass over a batch the ratio is exactly 1; {PASSES}"
SELECT = "algorithm.selection."
LOSS = "algorithm.loss."
ROWS: dict[str, tuple[Acts, str]] = {
    "algorithm.advantage": (always, ""),
    "algorithm.reduction": (always, ""),
    "algorithm.anchor": (
        lambda c: LOSSES[c.algorithm.loss.name].anchor == "old",
        "the loss has an anchor of its own",
    ),
    "algorithm.max_length": (
        lambda c: c.algorithm.reduction == "seq_mean_token_sum_norm",
        "only the reduction seq_mean_token_sum_norm reads it",
    ),
    "algorithm.gamma": (_rule_reads("gamma"), "only gae and reinforce++ discount"),
    "algorithm.lam": (_rule_reads("lam"), "only gae reads it"),
    "algorithm.normalize": (
        lambda c: c.algorithm.advantage not in ("gae", "reinforce++"),
        "the advantage rule normalizes already",
    ),
    "algorithm.teacher": (
        lambda c: c.algorithm.advantage == "distillation",
        "only the advantage 'distillation' has a teacher",
    ),
    LOSS + "name": (_name, f"{ONE}. Every ratio loss is the plain policy gradient there"),
    LOSS + "clip_low": (_bounds, f"the loss has no bounds, or {ONE}"),
    LOSS + "clip_high": (_bounds, f"the loss has no bounds, or {ONE}"),
    **{
        LOSS + key: (_loss_reads(key), f"only {names} reads it")
        for key, names in {
            "dual_clip": "the loss 'dual_clip'",
            "divergence": "the loss 'dppo'",
            "tau_positive": "the loss 'sapo'",
            "tau_negative": "the loss 'sapo'",
            "cov_low": "the loss 'clip_cov'",
            "cov_high": "the loss 'clip_cov'",
            "cov_frac": "'clip_cov' or 'kl_cov'",
            "cov_coef": "the loss 'kl_cov'",
        }.items()
    },
    **{
        f"algorithm.off_policy.{key}": (
            lambda c: c.anchor == "policy",
            "the ratio is anchored on the sampler, so that the correction is 1 by construction; "
            "set anchor = 'policy'",
        )
        for key in [
            "outlier_low",
            "outlier_high",
            "token_low",
            "token_high",
            "truncate",
            "geometric_low",
            "geometric_high",
            "product_low",
            "product_high",
            "truncate_sequence",
        ]
    },
    "algorithm.kl.loss": (always, ""),
    "algorithm.kl.reward": (_rewards, "the advantage rule reads no rewards; use kl.loss"),
    "algorithm.kl.kind": (lambda c: c.algorithm.kl.is_active, "both KL coefficients are 0"),
    "algorithm.kl.target": (lambda c: c.algorithm.kl.is_active, "both KL coefficients are 0"),
    "algorithm.kl.horizon": (
        lambda c: c.algorithm.kl.is_active and c.algorithm.kl.target > 0,
        "there is no kl.target",
    ),
    SELECT + "dynamic": (_rewards, "the advantage rule reads no rewards"),
    SELECT + "max_batches": (
        lambda c: c.algorithm.selection.dynamic != "off",
        "dynamic sampling is off",
    ),
    SELECT + "min_useful_frac": (
        lambda c: c.algorithm.selection.dynamic == "replace",
        "only dynamic = 'replace' reads it",
    ),
    SELECT + "zero_variance": (
        lambda c: c.algorithm.selection.dynamic == "off" and _rewards(c),
        "dynamic sampling leaves no group without contrast, or the rule reads no rewards",
    ),
    SELECT + "overlong": (always, ""),
    SELECT + "penalty_tokens": (_rewards, "the advantage rule reads no rewards"),
    SELECT + "penalty": (
        lambda c: c.algorithm.selection.penalty_tokens > 0,
        "penalty_tokens is 0",
    ),
    "algorithm.critic.lr": (_critic, "only gae has a critic"),
    "algorithm.critic.clip": (
        lambda c: _critic(c) and not c.is_single_pass,
        "only gae has a critic, and its values do not move before the second pass",
    ),
    **CONTROL_ROWS,
    **RAY_ROWS,
}


def check_effective(config: TrainConfig) -> None:
    """Raise ConfigError for values that cannot work, and for settings that would do nothing."""
    check_values(config)
    check_ray(config)
    idle = [
        f"{key} = {value!r}: {ROWS[key][1]}"
        for key, value, default in _values(config)
        if value != default and not ROWS[key][0](config)
    ]
    if idle:
        lines = "\n  ".join(idle)
        raise ConfigError(f"a setting that does nothing here; change or remove it:\n  {lines}")


def effective_settings(config: TrainConfig) -> list[str]:
    """What is in force, what is idle and why, and what follows from the combination."""
    acting: list[str] = []
    idle: dict[str, list[str]] = defaultdict(list)
    for key, value, _ in _values(config):
        acts, why = ROWS[key]
        short = key.removeprefix("algorithm.")
        if acts(config):
            acting.append(f"{short}={_shown(config, key, value)}")
        elif key.partition(".")[0] in AGENTS and not config.has_tools:
            idle[NO_TOOLS] = [f"{name}.*" for name in AGENTS]
        elif key.startswith("ray.") and not config.ray.is_on:
            idle[OFF] = ["ray.*"]
        else:
            idle[why].append(short)
    lines = ["in force: " + ", ".join(acting)]
    lines += [f"idle: {', '.join(keys)} ({why})" for why, keys in idle.items()]
    return lines + [f"note: {note}" for note in _notes(config)]


# -- internals ---------------------------------------------------------------


def _values(config: TrainConfig) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, default) of everything that ROWS has."""

    def walk(section: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
        default = type(section)()
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                yield from walk(value, f"{path}.{field.name}")
            else:
                yield f"{path}.{field.name}", value, getattr(default, field.name)

    for name in ("algorithm", "asynchrony", "failures", *AGENTS, "sync", "ray"):
        yield from walk(getattr(config, name), name)
    for field in dataclasses.fields(config):
        if field.name in PLAIN:
            yield field.name, getattr(config, field.name), field.default


def _shown(config: TrainConfig, key: str, value: Any) -> Any:
    loss = config.algorithm.loss
    if key == LOSS + "clip_low":
        return loss.bounds()[0]
    if key == LOSS + "clip_high":
        return loss.bounds()[1]
    return loss.covariance_share() if key == LOSS + "cov_frac" else value


def _notes(config: TrainConfig) -> Iterator[str]:
    whose = {"policy": "the trainer's before the update", "rollout": "the sampler's"}
    yield f"the ratio is taken to {whose[config.anchor]} log-probabilities" + (
        ", so that it is exactly 1" if config.is_ratio_one else ""
    )
    steps = config.epochs * config.mini_batches
    yield f"{steps} optimizer step{'s' if steps > 1 else ''} for a batch of rollouts"
    kl = config.algorithm.kl
    if kl.is_active:
        yield "the KL's reference is the model before training"
    if kl.loss > 0 and kl.kind == "k1":
        yield "k1 as a loss has a gradient that is zero in expectation; k2 has that of the KL"
    yield from control_notes(config)
    yield from ray_notes(config)
    if config.algorithm.off_policy.is_active:
        yield "effective_token_frac in the metrics says how many tokens the correction leaves"
