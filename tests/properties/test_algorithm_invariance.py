"""What must not matter does not: the order of tokens, the split into micro-batches, the scale of
weights; and gradients are those of finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.train.algorithms import (
    LOSSES,
    REDUCTIONS,
    RULES,
    LossConfig,
    OffPolicyConfig,
    correction,
    group_advantages,
    mark_tokens,
    policy_loss,
    token_weights,
)

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=5)
DETACHED = ("cispo", "rollout_is")  # a weight without gradient times a log-probability
PARTS = OffPolicyConfig(
    outlier_low=0.3,
    outlier_high=3.0,
    token_low=0.6,
    token_high=1.7,
    truncate=1.2,
    geometric_low=0.8,
    geometric_high=1.25,
    product_low=0.4,
    product_high=2.5,
)


def batch(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)

    def draw(scale):
        return torch.randn(n, generator=generator, dtype=torch.float64) * scale

    logp = -draw(1.0).abs() - 0.05
    found = {
        "logprobs": logp,
        "old_logprobs": (logp + draw(0.3)).clamp(max=-0.01),
        "rollout_logprobs": (logp + draw(0.3)).clamp(max=-0.01),
        "sequence": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        "advantages": draw(1.0),
        "weights": torch.tensor(token_weights("sequence_mean", lengths, lengths, 5)).double(),
    }
    found["weights"] = found["weights"][found["sequence"]]
    found["advantages"] = found["advantages"] * found["weights"]
    return found


def losses(name, tokens, marked=None):
    return policy_loss(**tokens, config=LossConfig(name), marked=marked)


def marks(name, tokens):
    if not LOSSES[name].needs_marks:
        return None
    plain = tokens["advantages"] / tokens["weights"]
    return mark_tokens(tokens["logprobs"], tokens["old_logprobs"], plain, LossConfig(name))


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 99), data=st.data())
def test_neither_order_nor_splits_change_a_loss(name, lengths, seed, data):
    tokens = batch(lengths, seed)
    marked = marks(name, tokens)
    whole = losses(name, tokens, marked)
    order = data.draw(st.permutations(range(len(lengths))))
    cut = data.draw(st.integers(0, len(lengths)))
    for part in (order[:cut], order[cut:]):  # two micro-batches of whole sequences
        if not part:
            continue
        rows = torch.cat([(tokens["sequence"] == n).nonzero()[:, 0] for n in part])
        here = {key: value[rows] for key, value in tokens.items()}
        found = losses(name, here, None if marked is None else marked[rows])
        torch.testing.assert_close(found, whole[rows])


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 99), scale=st.floats(0.01, 100))
def test_a_loss_scales_with_its_weights(name, lengths, seed, scale):
    tokens = batch(lengths, seed)
    scaled = {**tokens}
    for key in ("advantages", "weights"):
        scaled[key] = tokens[key] * scale
    marked = marks(name, tokens)
    torch.testing.assert_close(losses(name, scaled, marked), losses(name, tokens, marked) * scale)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in DETACHED])
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999))
def test_gradients_are_those_of_finite_differences(name, lengths, seed):
    tokens = batch(lengths, seed)
    marked = marks(name, tokens)
    step = 1e-6

    def at(logprobs):
        return losses(name, {**tokens, "logprobs": logprobs}, marked)

    moving = tokens["logprobs"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(at(moving).sum(), moving)
    up, down = at(moving.detach() + step), at(moving.detach() - step)
    if name == "gspo":  # moves with its whole sequence: compare per sequence
        count = len(lengths)
        summed = [
            torch.zeros(count, dtype=torch.float64).index_add_(0, tokens["sequence"], x)
            for x in (gradient, (up - down) / (2 * step))
        ]
        gradient, numeric = summed
    else:
        numeric = (up - down) / (2 * step)
    is_smooth = (gradient - numeric).abs() < 1e-5 * (1 + numeric.abs())
    kinks = (~is_smooth).sum()  # a bound within 1e-6 of a token is possible, twice is not
    assert kinks <= (1 if len(gradient) > 1 else 0), (gradient, numeric)


@pytest.mark.parametrize("name", DETACHED)
def test_detached_weights_give_minus_weight_times_advantage(name):
    tokens = batch([3, 4], 5)
    moving = tokens["logprobs"].clone().requires_grad_()
    anchor = tokens["old_logprobs" if name == "cispo" else "rollout_logprobs"]
    ratio = (tokens["logprobs"] - anchor).exp()
    kept = (
        ratio.clamp(0, 5)
        if name == "cispo"
        else torch.where((ratio > 0.8) & (ratio < 1.2), ratio, 0.0)
    )
    loss = losses(name, {**tokens, "logprobs": moving}).sum()
    (gradient,) = torch.autograd.grad(loss, moving)
    torch.testing.assert_close(gradient, -tokens["advantages"] * kept)


@pytest.mark.parametrize("name", [n for n in LOSSES if LOSSES[n].uses_advantages])
def test_on_policy_every_loss_is_the_policy_gradient(name):
    tokens = batch([3, 4], 7)
    logp = tokens["logprobs"].clone().requires_grad_()
    same = {"old_logprobs": tokens["logprobs"], "rollout_logprobs": tokens["logprobs"]}
    none = torch.zeros(7, dtype=torch.bool) if LOSSES[name].needs_marks else None
    loss = losses(name, {**tokens, **same, "logprobs": logp}, none).sum()
    (gradient,) = torch.autograd.grad(loss, logp)
    torch.testing.assert_close(gradient, -tokens["advantages"])


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_a_correction_is_each_sequences_own(lengths, seed):
    tokens = batch(lengths, seed)
    old, rollout = tokens["old_logprobs"], tokens["rollout_logprobs"]
    whole = correction(old, rollout, tokens["sequence"], PARTS)
    for n in range(len(lengths)):
        rows = tokens["sequence"] == n
        alone = correction(old[rows], rollout[rows], torch.zeros(lengths[n]).long(), PARTS)
        torch.testing.assert_close(whole[rows], alone)
    assert bool(((whole >= 0) & (whole <= 1.2 + 1e-9)).all())


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8), data=st.data())
def test_weights_of_means_sum_to_one(lengths, data):
    groups = [data.draw(st.integers(0, 3)) for _ in lengths]
    order = data.draw(st.permutations(range(len(lengths))))
    for name in REDUCTIONS:
        found = token_weights(name, lengths, groups, 10)
        there = token_weights(name, [lengths[i] for i in order], [groups[i] for i in order], 10)
        assert there == pytest.approx([found[i] for i in order])
        total = sum(weight * length for weight, length in zip(found, lengths))
        if name == "token_mean" and sum(lengths):
            assert total == pytest.approx(1)
        if name == "sequence_mean":
            assert total == pytest.approx(sum(n > 0 for n in lengths) / len(lengths))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(rewards=st.lists(st.floats(0, 10), min_size=2, max_size=9), data=st.data())
def test_advantages_of_a_group_sum_to_zero_in_any_order(rule, rewards, data):
    order = data.draw(st.permutations(range(len(rewards))))
    found = group_advantages(rewards, rule)
    again = group_advantages([rewards[i] for i in order], rule)
    assert again == pytest.approx([found[i] for i in order], rel=1e-6, abs=1e-7)
    assert sum(found) == pytest.approx(0, abs=1e-6 * max(1, *map(abs, found)) * len(found))
