"""The fused decoder is the plain one, in other operations: same log-probabilities and gradients."""

import dataclasses

import pytest
import torch

from evolute.models import LoraConfig, load_model
from evolute.models.tiny import CONFIG, tiny_weights
from evolute.train import Policy, TrainConfig, Trainer
from evolute.train.rollouts import pack
from evolute.train.trainer import credit
from evolute.types import ConfigError, Outcome, Rollout, TrainingSample

TINY = load_model("tiny")
SHAPES = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "tie_embeddings": False},
    "qwen3": {"qk_norm": True},
    "one kv head": {"num_kv_heads": 1},
    "all biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
}


def model_of(shape):
    config = dataclasses.replace(CONFIG, **SHAPES[shape])
    return dataclasses.replace(TINY, config=config, weights=tiny_weights(config, seed=3))


def policy_of(model, **settings):
    lora = settings.pop("lora", LoraConfig(rank=4))
    made = Policy(model, lora, seed=1, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, b in made.lora.tensors.values():
            b.copy_(torch.randn(b.shape, generator=generator) * 0.05)
    return made


def rollouts(lengths=((3, 9, 1, 6), (4, 4, 4), (1, 2)), rewards=None):
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    made = []
    for group, sizes in enumerate(lengths):
        prompt = ids(5 + group)
        for index, size in enumerate(sizes):
            mask = tuple(i != 1 for i in range(size))
            sample = TrainingSample(prompt, ids(size), mask, (-2.0,) * size)
            reward = float(index % 2) if rewards is None else rewards[group]
            made.append(Rollout(str(group), group, index, reward, Outcome.DONE, (sample,)))
    return made


def scored(policy, budget=10_000, temperature=0.8):
    """Log-probabilities of all tokens, and the gradient of their weighted sum."""
    everything = []
    for batch in pack(credit(rollouts(), TrainConfig(model="tiny")), budget):
        tokens, scores = policy.scores(batch, temperature)
        everything.append(scores.logprobs.detach())
        loss = (scores.logprobs * tokens.advantages).sum()
        torch.autograd.backward(loss)
    return torch.cat(everything), [parameter.grad for parameter in policy.parameters()]


@pytest.mark.parametrize("shape", SHAPES)
def test_fused_equals_plain(shape):
    model = model_of(shape)
    logprobs, gradients = scored(policy_of(model, fused=False))
    ours, found = scored(policy_of(model, fused=True))
    torch.testing.assert_close(ours, logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, gradients, atol=2e-6, rtol=1e-4)


def test_fused_equals_plain_when_only_some_matrices_are_adapted():
    lora = LoraConfig(rank=3, targets=("k_proj", "up_proj"))
    logprobs, gradients = scored(policy_of(TINY, lora=lora, fused=False))
    ours, found = scored(policy_of(TINY, lora=lora, fused=True))
    assert len(gradients) == 2 * 2 * CONFIG.num_layers
    torch.testing.assert_close(ours, logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, gradients, atol=2e-6, rtol=1e-4)


def test_micro_batches_change_nothing():
    whole, parts = scored(policy_of(TINY)), scored(policy_of(TINY), budget=20)
    torch.testing.assert_close(parts[1], whole[1], atol=1e-6, rtol=1e-5)


def test_mixed_precision_changes_gradients_only():
    exact, half = scored(policy_of(TINY)), scored(policy_of(TINY, precision="mixed"))
    assert torch.equal(exact[0], half[0])
    difference = torch.cat([(a - b).flatten() for a, b in zip(exact[1], half[1])])
    size = torch.cat([a.flatten() for a in exact[1]]).norm()
    assert 0 < difference.norm() / size < 0.03


def test_bfloat16_stays_close():
    exact, half = scored(policy_of(TINY)), scored(policy_of(TINY, precision="bfloat16"))
    assert 0 < (exact[0] - half[0]).abs().mean() < 0.05


def test_the_fused_decoder_holds_no_second_copy_of_the_weights():
    policy = policy_of(TINY)
    q, k = (policy.decoder.layers[0].self_attn[name].weight for name in ("q_proj", "k_proj"))
    assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    torch.testing.assert_close(q, TINY.weights.dense("layers.0.self_attn.q_proj.weight"))


def test_rollouts_without_advantage_can_be_left_out():
    rewarded = rollouts(((3, 5), (4, 4), (2, 6)), rewards=(None, 1.0, 0.0))
    mixed = [
        dataclasses.replace(r, reward=float(r.index % 2)) if r.group == 0 else r for r in rewarded
    ]
    found = {}
    for skip in (True, False):
        config = TrainConfig(model="tiny", skip_zero_advantage=skip)
        policy = policy_of(TINY)
        report = Trainer(policy, config).update(mixed)
        found[skip] = ([p.detach().clone() for p in policy.parameters()], report.num_tokens)
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-6, rtol=1e-5)
    assert found[True][1] < found[False][1]


def test_half_precision_needs_the_fused_decoder():
    with pytest.raises(ConfigError, match="fused"):
        TrainConfig(model="tiny", fused=False, precision="mixed")
