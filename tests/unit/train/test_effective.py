"""A setting that would do nothing is refused with its name; what is in force is shown."""

import dataclasses
from pathlib import Path

import pytest

from evolute.agents import AgentConfig, DispatchConfig
from evolute.train import RayConfig, SyncConfig, TrainConfig, effective_settings
from evolute.train.algorithms import LOSSES, RULES, TOKEN_RULES
from evolute.train.effective import ROWS
from evolute.train.effective_control import PLAIN
from evolute.train.settings import AlgorithmConfig, AsynchronyConfig, FailureConfig
from evolute.types import ConfigError
from evolute.types.settings import keys, load

RECIPES = Path(__file__).parents[3] / "recipes" / "algorithms"
TWO = "mini_batches=2"
GAE = "algorithm.advantage=gae"
MEANS = "algorithm.reduction=sequence_mean"


def of(*overrides):
    short = ("algorithm." + o.removeprefix("a.") if o.startswith("a.") else o for o in overrides)
    return load(TrainConfig, overrides=list(short))


def test_each_setting_has_a_row():
    sections = {
        "algorithm": AlgorithmConfig,
        "asynchrony": AsynchronyConfig,
        "failures": FailureConfig,
        "agent": AgentConfig,
        "dispatch": DispatchConfig,
        "sync": SyncConfig,
        "ray": RayConfig,
    }
    named = {f"{name}.{key}" for name, section in sections.items() for key in keys(section)}
    assert set(ROWS) == named | set(PLAIN)


@pytest.mark.parametrize(
    "overrides",
    [
        ("a.gamma=0.9",),
        ("a.lam=0.9", "a.advantage=reinforce++"),
        ("a.normalize=true", "a.advantage=gae"),
        ("a.teacher=tiny",),
        ("a.max_length=64",),
        ("a.loss.name=gspo", MEANS),
        ("a.loss.name=importance_sampling",),
        ("a.loss.clip_high=0.28",),
        ("a.loss.clip_low=0.1", "a.loss.name=importance_sampling", TWO),
        ("a.loss.tau_positive=2", TWO),
        ("a.loss.cov_high=3", "a.loss.name=kl_cov", TWO),
        ("a.loss.cov_coef=3", "a.loss.name=clip_cov", TWO),
        ("a.loss.divergence=kl",),
        ("a.anchor=policy", "a.loss.name=dppo"),
        ("a.off_policy.truncate=2", TWO),
        ("a.off_policy.token_high=2", "a.loss.name=rollout_is"),
        ("a.off_policy.truncate_sequence=5", "a.loss.name=dppo"),
        ("a.off_policy.truncate=2", "a.anchor=rollout"),
        ("a.kl.kind=k2",),
        ("a.kl.target=0.1",),
        ("a.kl.horizon=5", "a.kl.loss=0.1"),
        ("a.kl.reward=0.1", "a.advantage=distillation", "a.teacher=tiny"),
        ("a.selection.max_batches=3",),
        ("a.selection.min_useful_frac=0.5", "a.selection.dynamic=filter"),
        ("a.selection.zero_variance=true", "a.selection.dynamic=filter"),
        ("a.selection.penalty=2",),
        ("a.critic.lr=1",),
        ("a.critic.clip=1", GAE),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_named(overrides):
    key = overrides[0].partition("=")[0].replace("a.", "algorithm.", 1)
    with pytest.raises(ConfigError, match=f"does nothing.*\n.*{key}"):
        of(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("a.loss.clip_high=0.28", TWO),
        ("a.loss.clip_high=0.28", "epochs=2"),
        ("a.loss.clip_high=0.28", "a.anchor=rollout"),
        ("a.loss.name=gspo", MEANS, TWO),
        ("a.loss.name=dppo", "a.loss.divergence=kl"),
        ("a.loss.name=clip_cov",),
        ("a.off_policy.truncate=2", TWO, "a.anchor=policy"),
        ("a.off_policy.geometric_low=0.99", "a.off_policy.geometric_high=1.01"),
        (GAE, "a.lam=0.95", "a.critic.lr=1e-3", "samples_per_prompt=1"),
        (GAE, "a.critic.clip=0.5", TWO),
        ("a.advantage=maxrl", "a.normalize=true"),
        ("a.kl.loss=0.01", "a.kl.kind=k2", "a.kl.target=0.1", "a.kl.horizon=100"),
        ("a.reduction=seq_mean_token_sum_norm", "a.max_length=64"),
        ("a.selection.penalty_tokens=4", "a.selection.penalty=2", "max_new_tokens=16"),
    ],
    ids=str,
)
def test_a_setting_with_effect_is_taken(overrides):
    assert effective_settings(of(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("a.loss.name=gspo", TWO), "reduction = 'sequence_mean'"),
        (("a.loss.name=cross_entropy",), "imitates every rollout"),
        (("a.kl.loss=0.1", "a.kl.reward=0.1"), "count the KL twice"),
        (("a.advantage=distillation",), "needs algorithm.teacher"),
        (("a.reduction=seq_mean_token_sum_norm",), "max_length"),
        (("a.off_policy.token_low=0.5",), "without token_high"),
        (("a.off_policy.token_low=2", "a.off_policy.token_high=1"), "between 0 and its high"),
        (("a.off_policy.truncate=2", "a.off_policy.truncate_sequence=2"), "twice"),
        (("a.selection.penalty_tokens=4",), "max_new_tokens"),
        (("a.gamma=1.5", GAE), "between 0.0 and 1.0"),
        (("a.kl.kind=k5",), "Known: abs, k1, k2, k3|Did you mean"),
        (("a.advantage=reinforce",), r"Did you mean 'reinforce\+\+'"),
        (("a.selection.dynamic=filter", "samples_per_prompt=1", GAE), "contrast"),
        (("samples_per_prompt=1",), "no advantage"),
    ],
    ids=str,
)
def test_a_combination_that_cannot_work_says_what_to_change(overrides, message):
    with pytest.raises(ConfigError, match=message):
        of(*overrides)


def test_all_idle_settings_come_in_one_error():
    with pytest.raises(ConfigError) as error:
        of("a.gamma=0.5", "a.kl.kind=k2", "a.loss.tau_negative=3")
    found = str(error.value)
    assert all(key in found for key in ("gamma", "kl.kind", "loss.tau_negative"))


def test_the_report_names_every_setting_once():
    for overrides in ((), (TWO, "a.loss.name=cispo", "a.kl.loss=0.1", "a.anchor=policy")):
        lines = effective_settings(of(*overrides))
        told = [line.partition(": ")[2] for line in lines if not line.startswith("note")]
        parts = [part for line in told for part in line.partition(" (")[0].split(", ")]
        words = [part.partition("=")[0] for part in parts]
        for key in keys(AlgorithmConfig):
            assert words.count(key) == 1, key


def test_the_report_says_what_follows():
    text = "\n".join(effective_settings(of()))
    assert "exactly 1" in text and "the trainer's before the update" in text
    two = "\n".join(effective_settings(of(TWO, "a.kl.loss=0.1", "a.kl.kind=k1")))
    assert "sampler's" in two and "zero in expectation" in two and "loss.clip_high=0.2" in two


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_hold_nothing_idle(path):
    assert effective_settings(load(TrainConfig, files=[path]))


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_is_either_taken_or_refused_with_a_way_out(name):
    changed = dataclasses.replace(AlgorithmConfig().loss, name=name)
    reduction = LOSSES[name].reduction or "token_mean"
    algorithm = AlgorithmConfig(loss=changed, reduction=reduction)
    if name == "cross_entropy":
        return
    assert TrainConfig(algorithm=algorithm, mini_batches=2).algorithm.loss.name == name


@pytest.mark.parametrize("name", [*RULES, *TOKEN_RULES])
def test_any_advantage_rule_is_taken(name):
    teacher = "tiny" if name == "distillation" else ""
    made = TrainConfig(algorithm=AlgorithmConfig(advantage=name, teacher=teacher))
    assert any(f"advantage={name}" in line for line in effective_settings(made))
