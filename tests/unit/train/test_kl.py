"""Estimators of the KL, what their gradients are, and the adaptive coefficient."""

import pytest
import torch

from evolute.train.algorithms import ESTIMATORS, AdaptiveKl, KlConfig, kl_estimate
from evolute.types import ConfigError


@pytest.mark.parametrize(
    ("kind", "expected"), [("k1", 0.2), ("abs", 0.2), ("k2", 0.02), ("k3", 0.018731)]
)
def test_the_cards_numbers(kind, expected):
    got = kl_estimate(torch.tensor([0.2]), torch.tensor([0.0]), kind)
    assert got.item() == pytest.approx(expected, abs=1e-6)


def exact(logits, reference):
    """KL(policy, reference), and every estimator's mean over all tokens, by their probability."""
    logp, ref = logits.log_softmax(-1), reference.log_softmax(-1)
    p = logp.exp()
    means = {kind: (p.detach() * kl_estimate(logp, ref, kind)).sum() for kind in ESTIMATORS}
    return (p * (logp - ref)).sum(), means


def test_k1_and_k3_are_unbiased_and_only_k2_has_the_gradient_of_the_kl():
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in "ab")
    logits.requires_grad_()
    kl, means = exact(logits, reference)
    assert means["k1"].item() == pytest.approx(kl.item())
    assert means["k3"].item() == pytest.approx(kl.item())

    def gradient(of):
        return torch.autograd.grad(of, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(means["k2"]), gradient(kl))
    torch.testing.assert_close(gradient(means["k1"]), torch.zeros(6, dtype=torch.float64))


def test_k3_is_bounded_far_away():
    found = kl_estimate(torch.tensor([-500.0, 500.0]), torch.tensor([0.0, 0.0]))
    assert found.tolist() == [10.0, 10.0]


def test_an_unknown_estimator_is_named():
    with pytest.raises(ConfigError, match="no KL estimator 'k4'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_the_coefficient_follows_its_target_within_bounds():
    steered = AdaptiveKl(KlConfig(loss=0.1, target=0.05, horizon=100))
    steered.update(0.055, 10)  # an error of a tenth
    assert steered.coefficient == pytest.approx(0.1 * (1 + 0.1 * 10 / 100))
    before = steered.coefficient
    steered.update(50.0, 10)  # counts as a fifth
    assert steered.coefficient == pytest.approx(before * 1.02)
    steered.update(0.0, 10)
    assert steered.coefficient == pytest.approx(before * 1.02 * 0.98)


def test_without_a_target_the_coefficient_stays():
    constant = AdaptiveKl(KlConfig(reward=0.3))
    constant.update(9.0, 100)
    assert constant.coefficient == 0.3
