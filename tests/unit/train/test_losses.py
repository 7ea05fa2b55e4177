"""Each loss against its formula written out by hand, on padded matrices as papers have them."""

import math

import pytest
import torch

from evolute.train.algorithms import (
    LOSSES,
    Loss,
    LossConfig,
    mark_tokens,
    policy_loss,
    token_weights,
)
from evolute.types import ConfigError

LENGTHS = [4, 1, 6, 3]


def tensors(seed=0, spread=0.4):
    generator = torch.Generator().manual_seed(seed)

    def draw(scale):
        return torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64) * scale

    logp = -draw(1.0).abs() - 0.05
    old, rollout = logp + draw(spread), logp + draw(spread)
    advantages = draw(1.0)
    sequence = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
    return logp, old.clamp(max=-0.01), rollout.clamp(max=-0.01), advantages, sequence


def padded(flat):
    return torch.nn.utils.rnn.pad_sequence(flat.split(LENGTHS), batch_first=True)


MASK = padded(torch.ones(sum(LENGTHS), dtype=torch.float64))


def by_hand(name, logp, old, rollout, a, config):
    """Padded matrices in, a matrix of losses out; nothing of ours is used."""
    r, q = torch.exp(logp - old), torch.exp(logp - rollout)
    low, high = config.bounds()
    ppo = -torch.min(r * a, torch.clip(r, 1 - low, 1 + high) * a)
    if name == "clipped":
        return ppo
    if name == "dual_clip":
        return torch.where(a < 0, torch.min(ppo, -3.0 * a), ppo)
    if name == "importance_sampling":
        return -r * a
    if name == "gspo":  # the gradient through the sequence's mean, as TRL writes it
        s = torch.exp(((logp - old) * MASK).sum(1) / MASK.sum(1))[:, None]
        return -torch.min(s * a, torch.clip(s, 1 - low, 1 + high) * a)
    if name == "sapo":
        tau = torch.where(a > 0, 1.0, 1.05)
        return -a * torch.sigmoid(tau * (r - 1)) * 4 / tau
    if name == "cispo":
        return -a * torch.clip(r, 1 - low, 1 + high).detach() * logp
    if name == "rollout_is":
        inside = ((q > 1 - low) & (q < 1 + high)).double()
        return -a * (q * inside).detach() * logp
    if name == "dppo":
        p, mu = torch.exp(logp.detach()), torch.exp(rollout)
        tv = torch.abs(p - mu)
        binary = mu * torch.log(mu / p) + (1 - mu) * torch.log((1 - mu) / (1 - p))
        far = tv if config.divergence == "tv" else binary
        drop = ((a > 0) & (p > mu) & (far > high)) | ((a < 0) & (p < mu) & (far > low))
        return -q * a * (~drop).double()
    if name == "cross_entropy":
        return -logp
    raise AssertionError(name)


CASES = [
    ("clipped", {}),
    ("clipped", {"clip_low": 0.2, "clip_high": 0.28}),
    ("dual_clip", {}),
    ("importance_sampling", {}),
    ("sapo", {}),
    ("cispo", {}),
    ("cispo", {"clip_low": 0.1, "clip_high": 0.2}),
    ("rollout_is", {"clip_low": 0.5, "clip_high": 1.0}),
    ("dppo", {"clip_low": 0.1, "clip_high": 0.1}),
    ("dppo", {"divergence": "kl", "clip_low": 0.05, "clip_high": 0.05}),
    ("cross_entropy", {}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_losses_and_gradients_are_the_formulas(name, settings, seed):
    config = LossConfig(name, **settings)
    logp, old, rollout, a, sequence = tensors(seed)
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    found = policy_loss(ours, old, a, config, rollout_logprobs=rollout, sequence=sequence)
    table = by_hand(name, padded(theirs), padded(old), padded(rollout), padded(a), config)
    expected = torch.cat([row[:n] for row, n in zip(table, LENGTHS)])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)
    (one,) = torch.autograd.grad(found.sum(), ours)
    (two,) = torch.autograd.grad(expected.sum(), theirs)
    torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("bounds", [(3e-4, 4e-4), (0.2, 0.28)])
def test_gspo_by_tokens_is_gspo_by_sequences(bounds):
    config = LossConfig("gspo", *bounds)
    logp, old, _, _, sequence = tensors(1, spread=0.2)
    a = torch.tensor([1.0, -0.5, -2.0, 0.3], dtype=torch.float64)[sequence]
    weights = torch.tensor(token_weights("sequence_mean", LENGTHS, range(4), 6)).double()[sequence]
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    found = policy_loss(ours, old, a * weights, config, sequence=sequence).sum()
    table = by_hand("gspo", padded(theirs), padded(old), padded(old), padded(a), config)
    expected = ((table * MASK).sum(1) / MASK.sum(1)).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs)
    )


def test_the_cards_numbers():
    old, one = torch.zeros(3), torch.ones(3)
    ratio = policy_loss(torch.tensor([0.1, -0.3, 0.4]), old, one, LossConfig("gspo", 1.0, 1.0))
    assert ratio.tolist() == pytest.approx([-1.068939] * 3, abs=1e-6)
    for r, a, gate in ((1.5, 1.0, 2.489837), (0.5, -1.0, 1.415938)):
        logp = torch.tensor([math.log(r)])
        loss = policy_loss(logp, torch.zeros(1), torch.tensor([a]), LossConfig("sapo"))
        assert loss.item() == pytest.approx(-a * gate, abs=1e-5)


def test_a_ratio_out_of_all_bounds_is_still_a_number():
    far = torch.tensor([0.0], requires_grad=True)
    for name in LOSSES:
        loss = policy_loss(far, torch.tensor([-5000.0]), torch.ones(1), LossConfig(name))
        (gradient,) = torch.autograd.grad(loss.sum(), far)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all(), name


def test_covariance_marks_are_those_with_the_highest_covariance():
    logp, _, _, a, _ = tensors(2)
    covariance = (a - a.mean()) * (logp - logp.mean())
    marked = mark_tokens(logp, logp, a, LossConfig("kl_cov", cov_frac=0.3))
    assert set(marked.nonzero()[:, 0].tolist()) == set(covariance.argsort()[-4:].tolist())
    loss = policy_loss(
        logp,
        logp - 0.5,
        a,
        LossConfig("kl_cov", cov_coef=2.0),
        weights=a.new_ones(14),
        marked=marked,
    )
    plain = -math.exp(0.5) * a
    torch.testing.assert_close(loss, torch.where(marked, plain + 2.0 * 0.5, plain))


def test_clip_cov_spares_tokens_within_the_band_and_at_least_one():
    logp = torch.linspace(-3, 0, 14, dtype=torch.float64).requires_grad_()
    a = torch.linspace(-2, 2, 14, dtype=torch.float64)
    config = LossConfig("clip_cov", cov_frac=2e-4)
    marked = mark_tokens(logp, logp.detach(), a, config)
    covariance = (a - a.mean()) * (logp - logp.mean()).detach()
    assert marked.sum() == 1 and bool((covariance[marked] > 1).all())
    loss = policy_loss(logp, logp.detach(), a, config, marked=marked)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(gradient, torch.where(marked, 0.0, -a))
    already_clipped = mark_tokens(logp, logp.detach() - 9 * a.sign(), a, config)
    assert not already_clipped.any()


def test_the_draw_of_clip_cov_is_the_generators():
    logp, a = torch.linspace(-3, 0, 400), torch.linspace(-3, 3, 400)
    config = LossConfig("clip_cov", cov_frac=0.02)

    def marks(seed):
        return mark_tokens(logp, logp, a, config, torch.Generator().manual_seed(seed))

    assert torch.equal(marks(1), marks(1)) and not torch.equal(marks(1), marks(2))
    assert marks(1).sum() == 8


def test_a_loss_of_ones_own_is_used_by_name():
    LOSSES.add("half", Loss(lambda tokens, config: -tokens.advantages * tokens.logprobs / 2))
    try:
        found = policy_loss(torch.ones(2), torch.zeros(2), torch.ones(2), LossConfig("half"))
        assert found.tolist() == [-0.5, -0.5]
        with pytest.raises(ConfigError, match="exists already"):
            LOSSES.add("half", LOSSES["clipped"])
    finally:
        del LOSSES._entries["half"]
    with pytest.raises(ConfigError, match="Did you mean 'clipped'"):
        policy_loss(torch.ones(1), torch.ones(1), torch.ones(1), LossConfig("cliped"))
