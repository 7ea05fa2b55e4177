"""Oracle numbers, worked out by hand from the formulas in the docstrings."""

import pytest
import torch

from evolute.train.algorithms import (
    LossConfig,
    OffPolicyConfig,
    correction,
    group_advantages,
    kl_estimate,
    policy_loss,
    token_weights,
)
from evolute.types import TrainingError


@pytest.mark.parametrize(
    ("rule", "rewards", "expected"),
    [
        ("grpo", [1, 0, 0, 1], [0.866024, -0.866024, -0.866024, 0.866024]),
        ("grpo", [1, 0, 0, 0], [1.499997, -0.499999, -0.499999, -0.499999]),
        ("dr_grpo", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ("rloo", [1, 0, 0, 0], [1.0, -0.333333, -0.333333, -0.333333]),
        ("rloo", [1, 0, 0, 1], [0.666667, -0.666667, -0.666667, 0.666667]),
        ("grpo", [1], [0.0]),
        ("grpo", [1, 1], [0.0, 0.0]),
    ],
)
def test_advantages(rule, rewards, expected):
    assert group_advantages([float(r) for r in rewards], rule) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "name", "expected"),
    [
        (1, 0.5, "clipped", -1.28),
        (1, -0.5, "clipped", -0.606531),
        (-1, 0.5, "clipped", 1.648721),
        (-1, -0.5, "clipped", 0.8),
        (-1, 1.5, "clipped", 4.481689),
        (-1, 1.5, "dual_clip", 3.0),
        (1, 0.5, "importance_sampling", -1.648721),
    ],
)
def test_policy_losses(advantage, log_ratio, name, expected):
    loss = policy_loss(
        torch.tensor([log_ratio]),
        torch.tensor([0.0]),
        torch.tensor([float(advantage)]),
        LossConfig(name, 0.2, 0.28),
    )
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("k1", 0.2), ("k2", 0.02), ("k3", 0.018731)])
def test_kl_estimates(kind, expected):
    got = kl_estimate(torch.tensor([0.2]), torch.tensor([0.0]), kind)
    assert got.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", [1 / 6, 1 / 6]),
        ("sequence_mean", [1 / 4, 1 / 8]),
        ("seq_mean_token_sum_norm", [1 / 16, 1 / 16]),
        ("prompt_mean", [1 / 4, 1 / 8]),
    ],
)
def test_reductions(reduction, expected):
    assert token_weights(reduction, [2, 4], ["a", "b"], 8) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (OffPolicyConfig(geometric_low=0.99, geometric_high=1.01), 0.0),
        (OffPolicyConfig(product_low=0.5, product_high=2.0), 1.0),
        (OffPolicyConfig(token_low=0.5, token_high=2.0), 1.0),
        (OffPolicyConfig(outlier_low=1e-4, outlier_high=1.03), 0.0),
        (OffPolicyConfig(), 1.0),
    ],
)
def test_off_policy_correction_by_sequence(config, kept):
    q = torch.tensor([0.02, -0.01, 0.05])
    factor = correction(q, torch.zeros(3), torch.zeros(3, dtype=torch.long), config)
    assert factor.tolist() == [kept] * 3


def test_truncation_scales_by_the_capped_ratio():
    q = torch.tensor([0.0, 2.0])
    config = OffPolicyConfig(truncate=2.0)
    factor = correction(q, torch.zeros(2), torch.tensor([0, 1]), config)
    assert factor.tolist() == [1.0, 2.0]


def test_correction_without_rollout_logprobs_is_refused():
    with pytest.raises(TrainingError, match="missing"):
        correction(
            torch.zeros(1),
            torch.tensor([float("nan")]),
            torch.tensor([0]),
            OffPolicyConfig(truncate=2.0),
        )


def test_on_policy_gradient_is_minus_the_advantage():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_loss(
        logprobs, logprobs.detach(), torch.tensor([0.5, -0.25]), LossConfig()
    ).sum().backward()
    assert logprobs.grad.tolist() == [-0.5, 0.25]
