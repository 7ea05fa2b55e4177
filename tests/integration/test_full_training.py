"""Training all weights: exact, published as the base, resumable, and readable by others."""

import asyncio
import dataclasses

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, causal_attention, load_model
from evolute.train import Controller, Policy, TrainConfig
from evolute.train.rollouts import pack
from evolute.train.trainer import credit
from evolute.types import ConfigError, Outcome, Rollout, SamplingParams, TrainingSample

CONFIG = TrainConfig(
    model="tiny", task="addition-1", steps=3, prompts_per_step=2, samples_per_prompt=4, seed=2
)
FULL = dataclasses.replace(CONFIG, method="full")
TINY = load_model("tiny")


@pytest.fixture(autouse=True)
def contrast(monkeypatch):
    """In every group, so that every step changes the weights."""
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


def weights_of(policy):
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def test_gradients_of_all_weights_are_the_plain_ones(monkeypatch):
    monkeypatch.setattr("evolute.train.policy.CHUNK", 2)
    prompt, responses = (5, 6, 7), ((8, 9, 10, 11), (12, 13))
    samples = [TrainingSample(prompt, r, (True,) * len(r), (-1.0,) * len(r)) for r in responses]
    rollouts = [
        Rollout("0", 0, i, float(i), Outcome.DONE, (sample,)) for i, sample in enumerate(samples)
    ]
    policy = Policy(TINY, None)
    (batch,) = pack(credit(rollouts, CONFIG), 1000)
    tokens, scores = policy.scores(batch, temperature=0.9)
    torch.autograd.backward((scores.logprobs * tokens.advantages).sum())
    plain, loss = Policy(TINY, None), 0.0
    for member in batch[0].members:
        ids = torch.tensor([*prompt, *member.sample.response_ids])
        hidden = plain.decoder(ids, torch.arange(len(ids)), causal_attention([len(ids)]))
        logprobs = (hidden @ plain.decoder.head_weight.T / 0.9).log_softmax(-1)
        loss = loss + member.advantage * sum(
            logprobs[at - 1, ids[at]] for at in range(len(prompt), len(ids))
        )
    torch.autograd.backward(loss)
    for (name, ours), theirs in zip(policy.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_engine_serves_what_was_trained_and_a_resumed_run_is_the_same(tmp_path):
    with Engine(TINY, page_size=4) as engine:
        whole = Controller(FULL, tmp_path / "whole", TINY, engine)
        asyncio.run(whole.run())
        first, seen = Controller(FULL, tmp_path / "cut", TINY, engine), []
        asyncio.run(first.run(seen.append, lambda: len(seen) == 1))
        second = Controller(FULL, tmp_path / "cut", TINY, engine)
        asyncio.run(second.run())
        trained, again = weights_of(whole.policy), weights_of(second.policy)
        assert all(torch.equal(trained[name], again[name]) for name in trained)
        before = TINY.weights.dense("layers.1.mlp.up_proj.weight")
        assert not torch.equal(trained["layers.1.mlp.up_proj.weight"], before)
        (served,) = engine.generate(["abc"], SamplingParams(temperature=0.0, max_new_tokens=8))
        model = load_model(str(second.save_result()))
    with Engine(model, page_size=4) as other:
        (read,) = other.generate(["abc"], SamplingParams(temperature=0.0, max_new_tokens=8))
    assert read.token_ids == served.token_ids


def test_settings_of_an_adapter_are_refused_without_one():
    with pytest.raises(ConfigError, match="lora"):
        dataclasses.replace(FULL, lora=LoraConfig(rank=4))
