"""Every algorithm by its name on the tiny model: weights move, and micro-batches change nothing."""

import asyncio
import dataclasses
import json
import math

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, load_model
from evolute.train import Controller, Policy, TrainConfig, Trainer
from evolute.train.algorithms import LOSSES, RULES, TOKEN_RULES
from evolute.train.companions import companions
from evolute.types import ConfigError, Outcome, Rollout, TrainingError, TrainingSample
from evolute.types.settings import load

TINY = load_model("tiny")
SMALL = ("model=tiny", "prompts_per_step=3", "samples_per_prompt=4", "optimizer.lr=1e-3")


def config_of(*overrides):
    short = ["algorithm." + o.removeprefix("a.") if o.startswith("a.") else o for o in overrides]
    return load(TrainConfig, overrides=[*SMALL, *short])


def policy():
    made = Policy(TINY, LoraConfig(rank=4), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, b in made.lora.tensors.values():
            b.copy_(torch.randn(b.shape, generator=generator) * 0.05)
    return made


def rollouts(groups=3, siblings=4, told=-5.5):
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    made = []
    for group in range(groups):
        prompt = ids(5 + group)
        for index in range(siblings):
            size = 2 + (index * 3 + group) % 6
            mask = tuple(i != 1 for i in range(size))
            sample = TrainingSample(prompt, ids(size), mask, (told,) * size)
            reward = float(index % 2) + 0.25 * group * (index == 3)
            made.append(Rollout(str(group), group, index, reward, Outcome.DONE, (sample,)))
    return made


def trained(config, given=None, budget=None, made=None):
    if budget:
        config = dataclasses.replace(config, micro_batch_tokens=budget)
    beside = companions(TINY, config)
    trainer = Trainer(made or policy(), config, beside.reference, beside.teacher)
    report = trainer.update(given or rollouts())
    return torch.cat([p.detach().flatten() for p in trainer.policy.parameters()]), report


MEANS = "a.reduction=sequence_mean"
RUNS = {
    **{f"advantage {rule}": (f"a.advantage={rule}",) for rule in RULES},
    "advantage gae": ("a.advantage=gae", "a.lam=0.95"),
    "advantage gae, two passes": ("a.advantage=gae", "epochs=2", "a.critic.clip=0.1"),
    "advantage reinforce++": ("a.advantage=reinforce++", "a.gamma=0.9"),
    "advantage distillation": ("a.advantage=distillation", "a.teacher=tiny"),
    **{
        f"loss {name}": (f"a.loss.name={name}", "mini_batches=2", "a.anchor=policy", MEANS)
        for name, loss in LOSSES.items()
        if loss.anchor == "old"
    },
    "loss dppo": ("a.loss.name=dppo",),
    "loss rollout_is": ("a.loss.name=rollout_is", "a.loss.clip_low=0.9", "a.loss.clip_high=9"),
    "clip-higher": ("a.loss.clip_high=0.28", "epochs=2"),
    "kl in the loss": ("a.kl.loss=0.5", "a.kl.kind=k2"),
    "kl in the reward": ("a.kl.reward=0.5", "a.kl.kind=k1", "a.advantage=rloo"),
    "kl along tokens": ("a.kl.reward=0.5", "a.advantage=reinforce++"),
    "correction": ("a.off_policy.truncate=2", "a.anchor=policy", "epochs=2"),
    "normalized": ("a.normalize=true", "a.advantage=dr_grpo"),
    "constant": ("a.reduction=seq_mean_token_sum_norm", "a.max_length=12"),
    "overlong": ("a.selection.penalty_tokens=4", "max_new_tokens=7"),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_update_changes_the_policy_and_micro_batches_do_not_change_it(name):
    config = config_of(*RUNS[name])
    before = torch.cat([p.detach().flatten() for p in policy().parameters()])
    whole, report = trained(config)
    parts, _ = trained(config, budget=14)
    assert not torch.equal(whole, before)
    assert (whole - parts).norm() < 0.02 * (whole - before).norm()  # Adam magnifies rounding
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_all_registered_names_are_run():
    text = " ".join(word for run in RUNS.values() for word in run)
    for name in (*RULES, *TOKEN_RULES):
        assert f"advantage={name}" in text
    for name in set(LOSSES) - {"cross_entropy", "clipped"}:
        assert f"loss.name={name}" in text


def test_the_kl_of_an_untrained_policy_is_zero_and_grows_with_the_adapter():
    config = config_of("a.kl.loss=0.1")
    fresh = Policy(TINY, LoraConfig(rank=4), seed=1)
    assert trained(config, made=fresh)[1].metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert trained(config)[1].metrics["kl"] > 0


def test_a_strong_kl_keeps_the_policy_near_its_reference():
    def distance(strength):
        config = config_of(f"a.kl.loss={strength}", "a.kl.kind=k2", "optimizer.lr=1e-2")
        made = policy()
        trainer = Trainer(made, config)
        found = [trainer.update(rollouts()).metrics["kl"] for _ in range(8)]
        return found[-1]

    assert distance(50.0) < 0.5 * distance(1e-6)


def test_the_adapter_is_what_it_was_after_the_reference_was_asked():
    made = policy()
    before = made.lora.fingerprint()

    def ask():
        with made.without_adapter():
            assert made.lora.fingerprint() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask()
    assert made.lora.fingerprint() == before


def test_distillation_teaches_without_rewards():
    config = config_of("a.advantage=distillation", "a.teacher=tiny")
    same = [dataclasses.replace(r, reward=0.0) for r in rollouts()]
    whole, report = trained(config, same)
    assert report.num_tokens > 0
    assert torch.equal(whole, trained(config, rollouts())[0])


def test_tokens_of_a_stale_sampler_are_dropped():
    config = config_of("a.off_policy.token_low=0.5", "a.off_policy.token_high=2")
    _, report = trained(config, rollouts(told=-30.0))
    assert report.metrics["effective_token_frac"] == 0.0
    _, near = trained(config, rollouts(told=-5.545))  # a tiny model's uniform guess
    assert near.metrics["effective_token_frac"] > 0


@pytest.mark.parametrize("told", [0.0, float("nan")])
def test_missing_rollout_logprobs_are_an_error_and_nothing_changes(told):
    for words in (("a.loss.name=dppo",), ("a.off_policy.truncate=2",), ("epochs=2",)):
        made = policy()
        before = made.lora.fingerprint()
        with pytest.raises(TrainingError, match="missing"):
            trained(config_of(*words), rollouts(told=told), made=made)
        assert made.lora.fingerprint() == before
    trained(config_of(), rollouts(told=0.0))  # nobody asks for them


def test_rules_along_tokens_refuse_rollouts_of_several_samples():
    double = [dataclasses.replace(r, samples=r.samples * 2) for r in rollouts()]
    trained(config_of(), double)
    with pytest.raises(TrainingError, match="several samples"):
        trained(config_of("a.advantage=reinforce++"), double)


def test_a_teacher_with_another_tokenizer_is_refused(monkeypatch):
    class Other(type(TINY.tokenizer)):
        def __init__(self):
            pass

        def encode(self, text):
            return [1, 2, 3]

    other = dataclasses.replace(TINY, tokenizer=Other())
    monkeypatch.setattr("evolute.train.companions.load_model", lambda name: other)
    with pytest.raises(ConfigError, match="another tokenizer"):
        companions(TINY, config_of("a.advantage=distillation", "a.teacher=other"))


@pytest.fixture
def contrast(monkeypatch):
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


RESUMED = {
    "gae": ("a.advantage=gae", "a.lam=0.9"),
    "adaptive kl": ("a.kl.loss=0.5", "a.kl.target=0.001", "a.kl.horizon=50", "mini_batches=2"),
}


@pytest.mark.parametrize("words", RESUMED.values(), ids=RESUMED)
def test_critic_and_coefficient_survive_a_resume_to_the_bit(tmp_path, contrast, words):
    config = dataclasses.replace(config_of(*words, "task=addition-1"), steps=3)
    with Engine(TINY, page_size=4) as engine:
        whole = Controller(config, tmp_path / "whole", TINY, engine)
        asyncio.run(whole.run())
        seen = []
        first = Controller(config, tmp_path / "cut", TINY, engine)
        asyncio.run(first.run(seen.append, lambda: len(seen) == 1))
        second = Controller(config, tmp_path / "cut", TINY, engine)
        asyncio.run(second.run())
    assert whole.policy.lora.fingerprint() == second.policy.lora.fingerprint()
    ours, theirs = whole.trainer.extra_state(), second.trainer.extra_state()
    assert ours.keys() == theirs.keys() and len(ours) > 0
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_dynamic_sampling_in_a_run_counts_its_batches(tmp_path, contrast):
    words = ("a.selection.dynamic=filter", "task=addition-1", "samples_per_prompt=2")
    config = dataclasses.replace(config_of(*words), steps=2)
    with Engine(TINY, page_size=4) as engine:
        run = Controller(config, tmp_path, TINY, engine)
        asyncio.run(run.run())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(record["num_batches"] >= 1 for record in records)
    journal = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    assert len(journal) == sum(record["num_batches"] for record in records) * 6


def test_the_whole_model_has_a_frozen_reference(tmp_path, contrast):
    config = dataclasses.replace(
        config_of("a.kl.loss=0.5", "task=addition-1", "method=full"), steps=2
    )
    with Engine(TINY, page_size=4) as engine:
        run = Controller(config, tmp_path, TINY, engine)
        asyncio.run(run.run())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["kl"] == pytest.approx(0, abs=1e-9) and records[1]["kl"] > 0
