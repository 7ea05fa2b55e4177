"""Sequences that share nothing are computed in buckets of their like, each once."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models import causal_attention
from evolute.train.prefix_attention import CALL, SharedPrefixAttention, buckets
from evolute.train.rollouts.packing import Credited, PackedGroup
from evolute.types import TrainingSample

SIZES = st.lists(st.integers(2, 400), min_size=1, max_size=8)


def cost(groups, sizes):
    return sum(CALL + len(g) * max(sizes[i] for i in g) ** 2 for g in groups)


def partitions(lengths):
    """All ways to cut ascending lengths."""
    for cuts in range(2 ** (len(lengths) - 1)):
        ends = [i + 1 for i in range(len(lengths) - 1) if cuts >> i & 1]
        yield [lengths[a:b] for a, b in pairwise([0, *ends, len(lengths)])]


@given(sizes=SIZES)
def test_no_other_partition_by_length_is_cheaper(sizes):
    found = buckets(sizes)
    assert sorted(i for bucket in found for i in bucket) == list(range(len(sizes)))
    ends = [(min(sizes[i] for i in b), max(sizes[i] for i in b)) for b in found]
    assert all(high < low for (_, high), (low, _) in pairwise(ends))
    lengths = sorted(set(sizes))
    best = min(
        sum(CALL + sum(sizes.count(n) for n in part) * part[-1] ** 2 for part in parts)
        for parts in partitions(lengths)
    )
    assert cost(found, sizes) == best


def test_alike_ones_are_one_call_and_a_long_one_stands_alone():
    assert buckets([30, 31, 32]) == [[0, 1, 2]]
    assert buckets([30, 1000, 31]) == [[0, 2], [1]]


@pytest.mark.parametrize("window", [None, 5])
@settings(max_examples=20, deadline=None)
@given(sizes=SIZES)
def test_outputs_and_gradients_are_those_of_each_alone(window, sizes):
    def batch_of(size):
        sample = TrainingSample((1,), (2,) * (size - 1), (True,) * (size - 1), (0.0,) * (size - 1))
        return PackedGroup((1,), (Credited(sample, 0, 1.0, 0),))

    generator = torch.Generator().manual_seed(0)
    shape = (sum(sizes), 2, 4)
    qkv = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    packed = SharedPrefixAttention(tuple(map(batch_of, sizes)), window)(0, *qkv)
    alone = causal_attention(sizes, window)(0, *qkv)
    torch.testing.assert_close(packed, alone)
    gradients = (torch.autograd.grad((out * upstream).sum(), qkv) for out in (packed, alone))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)
