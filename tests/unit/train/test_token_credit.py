"""Credit along tokens: the card's numbers, and the sums written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evolute.train.algorithms import (
    TokenEvidence,
    discounted_returns,
    gae,
    group_advantages,
    token_advantages,
    value_loss,
    whiten,
)
from evolute.types import TrainingError


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_gae_is_the_worked_example():
    rewards, values = double(0, 0, 1), double(0.5, 0.6, 0.7)
    advantages, returns = gae(rewards, values, 1.0, 0.95)
    assert advantages.tolist() == pytest.approx([0.46575, 0.385, 0.3])
    assert returns.tolist() == pytest.approx([0.96575, 0.985, 1.0])
    (white,) = token_advantages([TokenEvidence(rewards, values=values)], "gae", lam=0.95)
    assert white.tolist() == pytest.approx([0.991344, 0.017092, -1.008436], abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=9),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_gae_is_the_sum_of_discounted_errors(pairs, gamma, lam):
    rewards, values = (double(*side) for side in zip(*pairs))
    found, returns = gae(rewards, values, gamma, lam)
    n = len(pairs)
    v = [*values.tolist(), 0.0]
    deltas = [float(rewards[t]) + gamma * v[t + 1] - v[t] for t in range(n)]
    for t in range(n):
        expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
        assert float(found[t]) == pytest.approx(expected, abs=1e-9)
        assert float(returns[t]) == pytest.approx(expected + v[t], abs=1e-9)


def test_gae_with_lambda_one_and_a_blind_critic_is_the_return():
    rewards = double(0.5, 0, 1)
    advantages, _ = gae(rewards, torch.zeros(3, dtype=torch.float64), 0.9, 1.0)
    torch.testing.assert_close(advantages, discounted_returns(rewards, 0.9))
    assert discounted_returns(rewards, 0.9).tolist() == pytest.approx([1.31, 0.9, 1.0])


def test_reinforce_plus_plus_whitens_returns_over_the_batch():
    sequences = [TokenEvidence(double(0, 1)), TokenEvidence(double(0, 0, -1))]
    found = torch.cat(token_advantages(sequences, "reinforce++", gamma=0.5))
    returns = double(0.5, 1, -0.25, -0.5, -1)
    expected = (returns - returns.mean()) / (returns.var() + 1e-8).sqrt()
    torch.testing.assert_close(found, expected)


def test_distillation_is_minus_the_reverse_kl_of_each_token():
    evidence = TokenEvidence(double(5, 5), double(-1, -2), teacher=double(-0.5, -3))
    (found,) = token_advantages([evidence], "distillation")
    assert found.tolist() == [0.5, -1.0]


def test_whitening_knows_no_padding_and_survives_the_edges():
    parts = [double(1.0, 2.0), double(6.0)]
    found = torch.cat(whiten(parts))
    assert float(found.mean()) == pytest.approx(0) and float(found.var()) == pytest.approx(1)
    assert whiten([]) == [] and whiten([double(3.0)])[0].tolist() == [0.0]
    assert whiten([double(2.0, 2.0)])[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 0, 0, 1], [0.999998, -0.999998, -0.999998, 0.999998]),
        ([1, 0, 0, 0], [2.999988, -0.999996, -0.999996, -0.999996]),
        ([0, 0], [0, 0]),
        ([1], [0]),
    ],
)
def test_maxrl(rewards, expected):
    found = group_advantages([float(r) for r in rewards], "maxrl")
    assert found == pytest.approx(expected, abs=1e-6)


def test_maxrl_refuses_rewards_whose_mean_would_turn_the_sign():
    with pytest.raises(TrainingError, match="0 and above"):
        group_advantages([-1.0, -1.0, 1.0], "maxrl")


def test_a_value_may_not_move_far_at_once():
    values, old, returns = double(1.0, 0.1, 0.5), double(0, 0, 0.5), double(1.0, 1.0, 1.0)
    found = value_loss(values, old, returns, 0.2)
    assert found.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2, 0.5 * 0.5**2])
