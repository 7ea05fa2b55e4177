"""The native sampler chooses what the plain one chooses."""

import numpy as np
import pytest

from evolute.engine.execution.native_sampler import NativeSampler
from evolute.engine.execution.sampler import PlainSampler, Row
from evolute.kernels import DecoderShape, NativeDecoder
from evolute.types import SamplingParams

V = 3001
SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": V + 5},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.2},
    {"logit_bias": {3: 50.0}},
    {"top_logprobs": 5},
    {"logprob_token_ids": (3, 2999, 3), "temperature": 0.5},
]


@pytest.fixture(scope="module")
def sampler():
    shape = DecoderShape(1, 32, 2, 1, 16, 32, V, 1e-5)
    return NativeSampler(NativeDecoder(shape, np.zeros((4, 16), np.float32), 2))


def rows_of(settings, count, mask=None):
    sampling = SamplingParams(**settings)
    return [
        Row(sampling, seed=seed, position=7 * seed, prompt=(1, 2, 3), output=(5, 5, 9), mask=mask)
        for seed in range(count)
    ]


def logits_of(count, spread=3.0):
    return (np.random.default_rng(count).standard_normal((count, V)) * spread).astype(np.float32)


def compare(sampler, logits, indices, rows):
    ours = sampler.choose(logits, indices, rows)
    plain = PlainSampler().choose(logits, indices, rows)
    assert [c.token_id for c in ours] == [c.token_id for c in plain]
    assert [c.logprob for c in ours] == pytest.approx([c.logprob for c in plain], abs=2e-5)
    assert [c.top for c in ours] == [c.top for c in plain]
    assert [c.ids for c in ours] == [c.ids for c in plain]
    return ours


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_same_choice_as_plain(sampler, settings, spread):
    logits = logits_of(60, spread)
    compare(sampler, logits, list(range(59, -1, -1)), rows_of(settings, 60))


def test_one_row_of_logits_may_serve_several(sampler):
    compare(sampler, logits_of(3), [1, 1, 2, 0, 1], rows_of({}, 5))


def test_ties_are_cut_in_vocabulary_order(sampler):
    logits = np.zeros((40, V), np.float32)
    for settings in ({"top_k": 3}, {"top_p": 3.5 / V}):
        chosen = compare(sampler, logits, list(range(40)), rows_of(settings, 40))
        assert {c.token_id for c in chosen} <= {0, 1, 2, 3}


def test_masked_tokens_are_never_chosen(sampler):
    allowed = np.random.default_rng(0).choice(V, 20, replace=False)
    bits = np.zeros(-(-V // 32) * 32, np.uint8)
    bits[allowed] = 1
    mask = np.packbits(bits, bitorder="little").view(np.uint32)
    chosen = compare(sampler, logits_of(50), list(range(50)), rows_of({}, 50, mask))
    assert {c.token_id for c in chosen} <= set(allowed.tolist())


def test_only_the_row_that_is_not_finite_is_lost(sampler):
    logits = logits_of(4)
    logits[1, 17] = np.nan
    logits[2] = -np.inf
    for settings in ({}, {"temperature": 0.0}, {"top_p": 0.9}):
        chosen = sampler.choose(logits, [0, 1, 2, 3], rows_of(settings, 4))
        assert [c is None for c in chosen] == [False, True, True, False]


def test_a_row_with_every_token_barred_is_lost(sampler):
    mask = np.zeros(-(-V // 32), np.uint32)
    for settings in ({}, {"temperature": 0.0}, {"top_k": 5}):
        rows = rows_of(settings, 2, mask)
        assert compare_lost(sampler, logits_of(2), rows) == [None, None]


def compare_lost(sampler, logits, rows):
    plain = PlainSampler().choose(logits, [0, 1], rows)
    assert plain == sampler.choose(logits, [0, 1], rows)
    return plain


def test_draws_follow_the_distribution(sampler):
    logits = np.full((1, V), -np.inf, np.float32)
    logits[0, [10, 2000, 3000]] = np.log([0.2, 0.5, 0.3])
    chosen = sampler.choose(logits, [0] * 4000, rows_of({}, 4000))
    share = np.mean([c.token_id == 2000 for c in chosen])
    assert share == pytest.approx(0.5, abs=0.03)


def test_scores_are_the_plain_ones(sampler):
    logits, tokens = logits_of(6), [0, 5, 100, V - 1, 7, 7]
    plain = PlainSampler().score(logits, tokens, 0.7)
    assert sampler.score(logits, tokens, 0.7) == pytest.approx(plain, abs=2e-5)


def test_rows_outside_the_logits_are_refused(sampler):
    with pytest.raises(ValueError, match="no such row"):
        sampler.choose(logits_of(2), [2], rows_of({}, 1))
