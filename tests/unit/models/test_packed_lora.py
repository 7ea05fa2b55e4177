"""A packed adapter is the adapter, to the bit, in one run without needless bytes."""

import itertools

import numpy as np
import pytest
import torch

from evolute.models import LoraConfig, LoraWeights, load_model, pack
from evolute.models.packed_lora import GROUPS, PAD

TINY = load_model("tiny")


def adapter(rank=5, **changes):
    weights = LoraWeights.init(LoraConfig(rank=rank, alpha=3.0, **changes), TINY.config)
    for _, b in weights.tensors.values():
        b.normal_(generator=torch.Generator().manual_seed(rank))
    return weights


@pytest.mark.parametrize("rank", [1, 5, 64])
def test_what_is_packed_comes_out_again(rank):
    weights = adapter(rank)
    packed = pack(weights)
    back = packed.unpack()
    assert back.fingerprint() == weights.fingerprint() and back.scale == weights.scale
    assert packed.num_bytes == 4 * sum(p.numel() for p in weights.parameters())
    assert packed.waste == 0
    weights.tensors[1, "q_proj"][0].zero_()  # later training changes nothing
    assert back.fingerprint() != weights.fingerprint()


def test_rows_of_one_input_are_one_run_and_none_overlaps():
    packed = pack(adapter())
    at = {(part.layer, part.module): part for part in packed.parts}
    taken = np.zeros(len(packed.flat), int)
    for layer in range(TINY.config.num_layers):
        for group in GROUPS:
            parts = [at[layer, module] for module in group]
            for one, following in itertools.pairwise(parts):
                assert following.a == one.a + one.rank * one.inputs
            for part in parts:
                taken[part.a : part.a + part.rank * part.inputs] += 1
                taken[part.b : part.b + part.rank * part.outputs] += 1
    assert (taken == 1).all()
    table = packed.table()
    assert table.shape == (14, 7) and table[0].tolist() == [0, 0, 5, 64, 64, 0, 960]


def test_odd_widths_are_padded_and_told():
    weights = LoraWeights(
        LoraConfig(rank=3), {(1, "up_proj"): (torch.randn(3, 50), torch.randn(83, 3))}
    )
    packed = pack(weights)
    assert packed.num_bytes == 4 * 3 * (64 + 96) and 64 % PAD == 96 % PAD == 0
    assert packed.waste == pytest.approx(1 - 133 / 160)
    assert packed.unpack().fingerprint() == weights.fingerprint()


def test_an_adapter_of_half_the_precision_keeps_its_digest():
    weights = adapter()
    halves = {key: (a.bfloat16(), b.bfloat16()) for key, (a, b) in weights.tensors.items()}
    half = LoraWeights(weights.config, halves)
    assert pack(half).unpack().fingerprint() == half.fingerprint() != weights.fingerprint()


def test_an_adapter_of_nothing_takes_nothing():
    packed = pack(LoraWeights(LoraConfig(rank=4), {}))
    assert (packed.num_bytes, packed.parts, packed.waste) == (0, (), 0.0)
    assert packed.table().shape == (0, 7) and packed.unpack().tensors == {}
