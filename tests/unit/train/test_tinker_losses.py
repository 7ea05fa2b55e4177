"""Each loss of the training API: value and gradient are those of its formula, written out here."""

import numpy as np
import pytest
import torch

from evolute.models import LoraConfig, LoraWeights, causal_attention, load_model
from evolute.train.policy import Policy
from evolute.train.tinker import passes
from evolute.train.tinker.datums import Bounds, RawDatum, check
from evolute.train.tinker.losses import spec_of
from evolute.types import PromptTooLong, RequestError

BOUNDS = Bounds(259, 64)


@pytest.fixture(scope="module")
def policy():
    base = Policy(load_model("tiny"), LoraConfig(4), seed=3)
    lora = LoraWeights.init(LoraConfig(4), base.decoder.config, 5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, b in lora.tensors.values():  # else A has no gradient
            b.copy_(0.05 * torch.randn(b.shape, generator=generator))
    return base.with_adapter(lora)


def raw_datums(rng, *, is_rl=True):
    """Sequences of several lengths, some with one prompt; targets are the next tokens."""
    shared = rng.integers(0, 250, 6)
    found = []
    for length in (4, 9, 6):
        ids = np.concatenate([shared, rng.integers(0, 250, length)])
        inputs = {"target_tokens": ids[1:]}
        trained = np.arange(1, len(ids)) >= len(shared)
        if is_rl:
            inputs["advantages"] = (rng.normal() * trained).astype(np.float32)
            inputs["logprobs"] = (-rng.uniform(0.5, 9, len(ids) - 1) * trained).astype(np.float32)
        else:
            inputs["weights"] = (rng.uniform(0.2, 2, len(ids) - 1) * trained).astype(np.float32)
        found.append(RawDatum(ids[:-1], inputs))
    return found


def all_logprobs(policy, raw):
    """[T, V] of the plain decoder."""
    ids = torch.tensor(raw.tokens)
    attend = causal_attention([len(ids)], None)
    hidden = policy.decoder(ids, torch.arange(len(ids)), attend, policy.lora.delta)
    return (hidden @ policy.decoder.head_weight.T).log_softmax(-1)


def target_logprobs(policy, raw):
    targets = torch.tensor(raw.inputs["target_tokens"])
    return all_logprobs(policy, raw).gather(1, targets.view(len(targets), -1)).view(targets.shape)


def tensor(raw, name):
    return torch.tensor(raw.inputs[name])


def ppo(low, high):
    def loss(p, raw):
        ratio, a = (p - tensor(raw, "logprobs")).exp(), tensor(raw, "advantages")
        return -torch.minimum(ratio * a, ratio.clamp(low, high) * a).sum()

    return loss


def importance_sampling(p, raw):
    return -((p - tensor(raw, "logprobs")).exp() * tensor(raw, "advantages")).sum()


def cispo(p, raw):
    ratio = (p - tensor(raw, "logprobs")).exp().clamp(0.5, 1.5).detach()
    return -(ratio * p * tensor(raw, "advantages")).sum()


def gspo(p, raw):
    a = tensor(raw, "advantages")
    ratio = (p - tensor(raw, "logprobs"))[a != 0].mean().exp()
    return -torch.minimum(ratio * a, ratio.clamp(0.6, 1.4) * a)[a != 0].sum()


def dppo(p, raw):
    old, a = tensor(raw, "logprobs"), tensor(raw, "advantages")
    now, then = p.detach().exp(), old.exp()
    wide = (now - then).abs() > 0.01
    dropped = wide & (((a > 0) & (now > then)) | ((a < 0) & (now < then)))
    return torch.where(dropped, 0.0, -(p - old).exp() * a).sum()


def dro(p, raw):
    old = tensor(raw, "logprobs")
    return -(p * tensor(raw, "advantages") - 0.5 * 0.1 * (p - old) ** 2).sum()


def cross_entropy(p, raw):
    return -(p * tensor(raw, "weights")).sum()


THRESHOLDS = {"clip_low_threshold": 0.6, "clip_high_threshold": 1.4}
CASES = {
    "cross_entropy": ({}, cross_entropy),
    "importance_sampling": ({}, importance_sampling),
    "ppo": ({}, ppo(0.8, 1.2)),
    "ppo, own": (THRESHOLDS, ppo(0.6, 1.4)),
    "cispo": ({"clip_low_threshold": 0.5, "clip_high_threshold": 1.5}, cispo),
    "gspo": (THRESHOLDS, gspo),
    "dppo": ({"clip_low": 0.01, "clip_high": 0.01}, dppo),
    "dro": ({"beta": 0.1}, dro),
}


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def clear(policy):
    for parameter in policy.parameters():
        parameter.grad = None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("budget", [10_000, 12])
def test_loss_and_gradient_are_those_of_the_formula(policy, case, budget):
    name, (config, formula) = case.partition(",")[0], CASES[case]
    raws = raw_datums(np.random.default_rng(1), is_rl=name != "cross_entropy")
    spec = spec_of(name, config)
    datums = [check(raw, spec, BOUNDS, "data") for raw in raws]
    clear(policy)
    (found,) = passes.run(policy, [passes.Request(datums, spec, True)], budget)
    ours = gradient(policy)
    clear(policy)
    losses = [formula(target_logprobs(policy, raw), raw) for raw in raws]
    total = sum(losses)
    total.backward()
    theirs = gradient(policy)
    scale = float(theirs.abs().max())
    assert scale > 1e-3
    assert found.loss == pytest.approx(float(total.detach()), rel=1e-6)
    assert float((ours - theirs).abs().max()) <= 2e-6 * scale
    for raw, told in zip(raws, found.logprobs):
        expected = target_logprobs(policy, raw).detach().numpy()
        np.testing.assert_allclose(told[:, 0], expected, atol=5e-6)


def test_several_targets_of_a_position(policy):
    rng = np.random.default_rng(2)
    tokens, targets = rng.integers(0, 250, 5), rng.integers(0, 250, (5, 3))
    weights = rng.uniform(0, 1, (5, 3)).astype(np.float32)
    weights[0] = 0
    raw = RawDatum(tokens, {"target_tokens": targets, "weights": weights})
    spec = spec_of("cross_entropy", None)
    clear(policy)
    datum = check(raw, spec, BOUNDS, "data")
    (found,) = passes.run(policy, [passes.Request([datum], spec, True)], 999)
    ours = gradient(policy)
    clear(policy)
    loss = cross_entropy(target_logprobs(policy, raw), raw)
    loss.backward()
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert found.logprobs[0].shape == (5, 3)
    torch.testing.assert_close(ours, gradient(policy), rtol=1e-5, atol=1e-5)


def test_a_target_need_not_be_the_next_token(policy):
    raw = RawDatum(
        np.array([5, 6, 7]),
        {"target_tokens": np.array([0, 9, 200]), "weights": np.array([0, 1, 1], np.float32)},
    )
    spec = spec_of("cross_entropy", None)
    datum = check(raw, spec, BOUNDS, "data")
    (found,) = passes.run(policy, [passes.Request([datum], spec, True)], 999)
    expected = target_logprobs(policy, raw).detach().numpy()
    np.testing.assert_allclose(found.logprobs[0][:, 0], expected, atol=5e-6)


def test_a_mask_leaves_tokens_out(policy):
    (raw, *_) = raw_datums(np.random.default_rng(3))
    mask = np.ones(len(raw.tokens), np.float32)
    mask[-2:] = 0
    masked = RawDatum(raw.tokens, dict(raw.inputs) | {"mask": mask})
    without = dict(raw.inputs) | {"advantages": raw.inputs["advantages"] * mask}
    spec = spec_of("ppo", None)
    found = []
    for one in (masked, RawDatum(raw.tokens, without)):
        clear(policy)
        datum = check(one, spec, BOUNDS, "data")
        (scored,) = passes.run(policy, [passes.Request([datum], spec, True)], 999)
        found.append((scored.loss, gradient(policy)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


def test_requests_of_one_pass_are_as_when_alone(policy):
    rng = np.random.default_rng(4)
    asked = []
    for name, is_backward in (("ppo", True), ("cross_entropy", True), ("ppo", False)):
        spec = spec_of(name, None)
        raws = raw_datums(rng, is_rl=name == "ppo")
        datums = [check(raw, spec, BOUNDS, "data") for raw in raws]
        asked.append(passes.Request(datums, spec, is_backward))
    clear(policy)
    together = passes.run(policy, asked, 40)
    summed = gradient(policy)
    clear(policy)
    alone = [passes.run(policy, [request], 40)[0] for request in asked]
    torch.testing.assert_close(summed, gradient(policy), rtol=1e-4, atol=1e-5)
    for one, other in zip(together, alone):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        for a, b in zip(one.logprobs, other.logprobs):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("pppo", {}, "ppo"),
        ("custom", {}, "client"),
        ("stable_reinforce", {}, "sampler"),
        ("ppo", {"clip_low": 0.2}, "clip_low_threshold"),
        ("ppo", {"clip_low_threshold": 1.3}, "bound the ratio"),
        ("ppo", {"clip_low_threshold": "x"}, "number"),
        ("ppo", {"clip_high_threshold": float("inf")}, "number"),
        ("importance_sampling", {"beta": 1}, "does not read"),
        ("dro", {"beta": -1}, "at least 0"),
        ("dppo", {"divergence": "js"}, "tv"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(name, config, told):
    with pytest.raises(RequestError, match=told):
        spec_of(name, config)


def test_own_settings_of_our_losses():
    assert spec_of("dppo", {"clip_low": 0.1, "divergence": "kl"}).config.divergence == "kl"
    assert spec_of("sapo", {"tau_positive": 2}).config.tau_positive == 2.0
    assert spec_of("ppo", {}) == spec_of("ppo", None)


GOOD = {
    "target_tokens": np.array([2, 3]),
    "advantages": np.ones(2, np.float32),
    "logprobs": np.zeros(2, np.float32),
}


@pytest.mark.parametrize(
    ("tokens", "change", "told"),
    [
        ([], {}, "no tokens"),
        ([1, 300], {}, "vocabulary"),
        ([1, -1], {}, "vocabulary"),
        ([1, 2], {"target_tokens": np.array([2, 259])}, "vocabulary"),
        ([1, 2], {"target_tokens": np.array([2])}, "shape"),
        ([1, 2], {"target_tokens": np.array([2.0, 3.0], np.float32)}, "int64"),
        ([1, 2], {"target_tokens": np.array([[2, 3], [4, 5]])}, "cross_entropy"),
        ([1, 2], {"advantages": np.ones(3, np.float32)}, "shape"),
        ([1, 2], {"advantages": np.array([1, np.nan], np.float32)}, "finite"),
        ([1, 2], {"logprobs": None}, "needs 'logprobs'"),
        ([1, 2], {"weights": np.ones(2, np.float32)}, "does not read 'weights'"),
        ([1, 2], {"wieghts": np.ones(2, np.float32)}, "weights"),
        ([1, 2], {"mask": np.array([1, 2], np.float32)}, "0 or 1"),
        ([1, 2], {"clip_low_threshold": np.ones(2, np.float32)}, "loss_fn_config"),
    ],
)
def test_a_bad_datum_is_told_with_its_place(tokens, change, told):
    inputs = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(RequestError, match=told) as caught:
        check(RawDatum(np.array(tokens, np.int64), inputs), spec_of("ppo", None), BOUNDS, "data[7]")
    assert "data[7]" in str(caught.value)


def test_a_datum_beyond_the_context_is_refused():
    long = RawDatum(np.ones(65, np.int64), {"target_tokens": np.ones(65, np.int64)})
    with pytest.raises(PromptTooLong, match="64"):
        check(long, spec_of("cross_entropy", None), BOUNDS, "data[0]")
