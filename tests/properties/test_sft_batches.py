"""What a supervised step does not depend on, and which examples it takes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.models import LoraConfig, load_model
from evolute.train import Policy
from evolute.train.rollouts import pack
from evolute.train.sft.order import examples_of, num_examples, quotas
from evolute.train.sft.trainer import weighted
from evolute.types import TrainingSample

TINY = load_model("tiny")
TOKENS = st.integers(0, 255)
SLOW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def samples(draw):
    """Few prompts, so that some are shared; masks with at least one trained token somewhere."""
    prompts = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        response = draw(st.lists(TOKENS, min_size=1, max_size=8))
        mask = draw(st.lists(st.booleans(), min_size=len(response), max_size=len(response)))
        zeros = (0.0,) * len(response)
        prompt = tuple(draw(st.sampled_from(prompts)))
        found.append(TrainingSample(prompt, tuple(response), tuple(mask), zeros))
    if not any(any(s.loss_mask) for s in found):
        found.append(TrainingSample((1,), (2,), (True,), (0.0,)))
    return found


def policy_of(is_full):
    if is_full:
        return Policy(TINY, None)
    policy = Policy(TINY, LoraConfig(rank=2), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, b in policy.lora.tensors.values():
            b.copy_(0.05 * torch.randn(b.shape, generator=generator))
    return policy


def loss_and_gradient(policy, batches):
    for parameter in policy.parameters():
        parameter.grad = None
    total = 0.0
    for batch in batches:
        tokens, scores = policy.scores(batch, 1.0)
        loss = -(scores.logprobs * tokens.advantages).sum()
        loss.backward()
        total += float(loss.detach())
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]
    return total, torch.cat([part.flatten() for part in parts])


def policies():
    """In float64, where sums of another order are equal and a mistake is not."""
    torch.set_default_dtype(torch.float64)
    try:
        return {is_full: policy_of(is_full) for is_full in (False, True)}
    finally:
        torch.set_default_dtype(torch.float32)


POLICIES = policies()


@SLOW
@given(rows=samples(), budget=st.integers(1, 60), is_full=st.booleans(), data=st.data())
def test_packing_order_and_micro_batches_change_nothing(rows, budget, is_full, data):
    policy = POLICIES[is_full]
    credited = weighted(rows)
    alone = [b for one in credited for b in pack([one], 10_000)]  # no packing at all
    loss, gradient = loss_and_gradient(policy, alone)
    shuffled = weighted(data.draw(st.permutations(rows)))
    for other in (pack(credited, 10_000), pack(credited, budget), pack(shuffled, budget)):
        again, also = loss_and_gradient(policy, other)
        assert again == pytest.approx(loss, abs=1e-9, rel=1e-9)
        torch.testing.assert_close(also, gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("window", [1, 3, 8, 100])
def test_a_sliding_window_reaches_as_far_in_training(window):
    model = replace(TINY, config=replace(TINY.config, sliding_window=window))
    policy = Policy(model, LoraConfig(rank=2))
    prompt, answers = (5, 6, 7, 8, 9), ((1, 2, 3, 4, 5, 6), (7, 8))
    rows = [TrainingSample(prompt, a, (True,) * len(a), (0.0,) * len(a)) for a in answers]
    (batch,) = pack(weighted(rows), 1000)
    for packed in (batch, *(b for one in rows for b in pack(weighted([one]), 1000))):
        tokens, scores = policy.scores(packed, 1.0)
        members = [m.sample for m in packed[0].members]
        expected = [policy.logprobs(torch.tensor([*prompt, *m.response_ids]))[4:] for m in members]
        torch.testing.assert_close(scores.logprobs, torch.cat(expected), atol=1e-5, rtol=1e-5)
        assert len(tokens.targets) == len(scores.logprobs)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    epochs=st.integers(1, 4),
    batch=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_without_a_mix_each_row_is_seen_once_a_pass(sizes, epochs, batch, seed):
    total = num_examples(sizes, epochs)
    steps = -(-total // batch)
    seen = [n for step in range(steps) for n in examples_of(step, batch, sizes, (), seed, total)]
    assert len(seen) == total and examples_of(steps, batch, sizes, (), seed, total) == []
    for first in range(0, total, sum(sizes)):
        assert sorted(seen[first : first + sum(sizes)]) == list(range(sum(sizes)))


@given(
    sizes=st.lists(st.integers(5, 30), min_size=2, max_size=4),
    shares=st.lists(st.floats(0.2, 3), min_size=4, max_size=4),
    batch=st.integers(1, 9),
)
def test_with_a_mix_the_shares_are_exact_and_files_are_walked_evenly(sizes, shares, batch):
    mix, passes = tuple(shares[: len(sizes)]), 3
    counts, total = quotas(sizes, mix), num_examples(sizes, passes)
    assert sum(counts) == sum(sizes)
    for count, share in zip(counts, mix):
        assert abs(count - sum(sizes) * share / sum(mix)) < 1
    steps = -(-total // batch)
    seen = [n for step in range(steps) for n in examples_of(step, batch, sizes, mix, 0, total)]
    first = 0
    for size, count in zip(sizes, counts):
        rows = [n for n in seen if first <= n < first + size]
        times = Counter({n: 0 for n in range(first, first + size)}) + Counter(rows)
        assert len(rows) == passes * count
        assert max(times.values()) - min(times[n] for n in range(first, first + size)) <= 1
        first += size


def test_passes_differ_and_seeds_differ():
    def one(seed, step):
        return examples_of(step, 20, [20], (), seed, 100)

    assert one(0, 0) != one(0, 1) and one(0, 0) != one(1, 0) and one(0, 0) == one(0, 0)
