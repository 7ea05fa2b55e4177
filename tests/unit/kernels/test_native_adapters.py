"""Adapters of any rank, on any layer, from any pages, in any company: always the reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from random_model import (
    MODULES,
    SHAPE,
    Model,
    Step,
    packed,
    pool_of,
    random_adapter,
    set_adapter,
)

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
RANKS = [1, 4, 8, 12, 16, 32, 64, 128]
SPANS = [(0, 9), (0, 40), (0, 1), (0, 17)]
ODD = dataclasses.replace(SHAPE, width=50, ff_width=83)  # no multiple of a vector


def close(got, expected):
    return np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


def in_pages(decoder, pool, index, weights, scale, pages):
    found = packed(weights, scale)
    memory = pool.write_floats(np.array(pages, np.int32), found.flat)
    decoder.set_adapter(index, found.table(), memory, found.scale)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", [SHAPE, ODD], ids=["even", "odd"])
def test_each_rank_is_the_reference(isa, rank, shape):
    model = Model(shape, {0: (random_adapter(shape, dict.fromkeys(MODULES, rank), rank), 0.1)})
    step = Step.of(SPANS, 4, [0, -1, 0, 0])
    got = step.run(model.native(), pool_of(shape, 4, 4))
    assert close(got, step.by_reference(model, model.pages(160, 4, torch.float32)))


@pytest.mark.parametrize(("page_size", "dtype"), [(1, "float16"), (4, "float32"), (16, "float32")])
@pytest.mark.parametrize("shape", [SHAPE, ODD], ids=["even", "odd"])
def test_pages_change_nothing(isa, page_size, dtype, shape):
    """Rows that cross from page to page, pages in any order: equal to the bit."""
    ranks = {"q": 3, "k": 7, "up": 20, "down": 5}
    adapters = {
        index: (random_adapter(shape, {m: r + index for m, r in ranks.items()}, index), 0.5)
        for index in range(3)
    }
    model = Model(shape, adapters)
    step = Step.of(SPANS, page_size, [2, 0, -1, 1])
    free = np.random.default_rng(0).permutation(4 * -(-160 // page_size)) + 4 * -(-160 // page_size)
    pool = kernels.KvPool(2, 8 * -(-160 // page_size), page_size, 2, 16, dtype)
    decoder, at = model.native(), 0
    plain = step.run(decoder, pool)
    page_floats = pool.native.block_floats * 2
    for index, (weights, scale) in adapters.items():
        need = -(-len(packed(weights, scale).flat) // page_floats)
        in_pages(decoder, pool, index, weights, scale, free[at : at + need])
        at += need
    assert np.array_equal(step.run(decoder, pool), plain)


def test_a_row_does_not_depend_on_who_else_is_there(isa):
    """Gathered and in one run, among few and many, with bases between: equal to the bit."""
    shape = SHAPE
    adapters = {
        i: (random_adapter(shape, dict.fromkeys(MODULES, rank), i), 0.2)
        for i, rank in enumerate([1, 8, 64, 5])
    }
    decoder = Model(shape, adapters).native()
    spans = [(0, 1 + 7 * i) for i in range(8)]
    whose = [0, 1, -1, 1, 2, 0, 3, 1]
    together = Step.of(spans, 4, whose)
    logits = together.run(decoder, pool_of(shape, 4, 8))
    starts = together.row_start
    for b, span in enumerate(spans):
        alone = Step.of([span], 4, [whose[b]])
        alone.token_ids = together.token_ids[starts[b] : starts[b + 1]]
        got = alone.run(decoder, pool_of(shape, 4, 1))
        assert np.array_equal(got, logits[starts[b] : starts[b + 1]])


def test_an_adapter_on_a_few_layers_and_modules(isa):
    weights = random_adapter(SHAPE, dict.fromkeys(MODULES, 6), 1)
    few = {key: pair for key, pair in weights.items() if key in {(1, "k"), (1, "gate")}}
    model = Model(SHAPE, {0: (few, 0.5)})
    step = Step.of(SPANS, 4, [0, 0, -1, 0])
    got = step.run(model.native(), pool_of(SHAPE, 4, 4))
    assert close(got, step.by_reference(model, model.pages(160, 4, torch.float32)))


def test_values_that_were_an_adapter_do_not_reach_attention(isa):
    """Floats read as halves are NaN now and then; a page that is used again must not show it."""
    model = Model(SHAPE)
    decoder, step = model.native(), Step.of(SPANS, 16)
    pool, clean = (pool_of(SHAPE, 16, 4, "float16") for _ in range(2))
    every = np.arange(40, dtype=np.int32)
    floats = 40 * 2 * pool.native.block_floats
    pool.write_floats(every, np.full(floats, np.nan, np.float32))
    assert np.array_equal(step.run(decoder, pool), step.run(decoder, clean))


def test_an_update_is_seen_at_once_and_the_old_memory_is_let_go():
    model = Model(SHAPE)
    decoder, step = model.native(), Step.of(SPANS, 4, [0, 0, 0, 0])
    results = []
    for seed in (1, 2, 1):
        set_adapter(decoder, 0, random_adapter(SHAPE, {"v": 8}, seed), 1.0)
        results.append(step.run(decoder, pool_of(SHAPE, 4, 4)))
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])
    assert list(decoder._memory) == [0]
