"""Keys that several sequences read are read once, and every answer is the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import CONTEXT, SHAPES, VOCABULARY, Model, Step, pool_of

MODEL = {name: Model(SHAPES[name]) for name in ("plain", "one kv head, wide heads", "window")}


def step_of(common, own, counts, page_size, parents=None, seed=0):
    """Sequences whose tables begin with `common[b]` pages of an earlier one's (of sequence 0's),
    then `own[b]` positions more; each computes its last `counts[b]` tokens. And the steps that
    fill what comes before."""
    num, count = -(-CONTEXT // page_size), len(common)
    pages = np.random.default_rng(seed).permutation(num * count).astype(np.int32)
    table = pages.reshape(count, num)
    for b in range(1, count):
        parent = 0 if parents is None else parents[b]
        table[b, : common[b]] = table[parent, : common[b]]
    ends = [min(CONTEXT, c * page_size + n + t) for c, n, t in zip(common, own, counts)]
    starts = [max(0, end - t) for end, t in zip(ends, counts)]

    def step(spans, tables):
        sizes = [end - start for start, end in spans]
        tokens = np.random.default_rng(seed).integers(0, VOCABULARY, sum(sizes))
        positions = np.concatenate([np.arange(*span) for span in spans])
        ends, nobody = [end for _, end in spans], [-1] * len(spans)
        arrays = (tokens, positions, np.cumsum([0, *sizes]), ends, tables, nobody,
                  np.arange(sum(sizes)))  # fmt: skip
        return Step(*(np.ascontiguousarray(x, np.int32) for x in arrays))

    before = [step([(0, s)], table[b : b + 1]) for b, s in enumerate(starts) if s]
    return before, step(list(zip(starts, ends)), table)


def answers(model, before, last, page_size, share, dtype="float32"):
    """The pages are filled alone, so that both ways find the same in them."""
    decoder = model.native()
    pool = pool_of(model.shape, page_size, len(last.context_len), dtype)
    for step in before:
        step.run(decoder, pool)
    decoder.share_prefixes = share
    found = last.run(decoder, pool)
    return found, decoder.key_blocks


@st.composite
def forests(draw):
    page_size = draw(st.sampled_from([1, 3, 16]))
    num = draw(st.integers(2, 14))
    levels = draw(st.lists(st.integers(0, 130 // page_size), min_size=1, max_size=3))
    common = [draw(st.sampled_from(levels)) for _ in range(num)]
    own = [draw(st.integers(0, 20) | st.integers(40, 110)) for _ in range(num)]
    counts = [draw(st.integers(1, 8)) for _ in range(num)]
    parents = [draw(st.integers(0, max(b - 1, 0))) for b in range(num)]
    return common, own, counts, page_size, parents


@pytest.mark.parametrize("name", MODEL)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@settings(max_examples=20, deadline=None)
@given(forest=forests())
def test_answers_are_equal_to_the_last_bit(name, dtype, forest):
    page_size = forest[3]
    before, last = step_of(*forest)
    alone, blocks_alone = answers(MODEL[name], before, last, page_size, False, dtype)
    shared, blocks_shared = answers(MODEL[name], before, last, page_size, True, dtype)
    np.testing.assert_array_equal(shared, alone)
    assert blocks_shared <= blocks_alone


def test_they_are_the_references_answers():
    page_size = 16
    before, last = step_of([8] * 9, range(9), [1] * 9, page_size)
    model = MODEL["plain"]
    found, _ = answers(model, before, last, page_size, True)
    pages = model.pages(-(-CONTEXT // page_size) * 9, page_size, torch.float32)
    for step in before:
        step.by_reference(model, pages)
    np.testing.assert_allclose(found, last.by_reference(model, pages), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("common", "counts", "blocks"),
    [
        ([8] * 8, [1] * 8, 2 + 8),  # 128 positions once, then each its own block
        ([8, 8, 8, 8, 4, 4, 4, 4], [1] * 8, 2 + 4 + 1 + 4),  # two groups
        ([8] * 20, [1] * 20, 2 * 2 + 20),  # ten tokens of three heads fit a tile
        ([8] * 4, [8] * 4, 4 * 3),  # as many tokens as a tile: each reads for itself
        ([3] * 8, [1] * 8, 8),  # 48 positions are less than a block
        ([8], [1], 3),
    ],
)
def test_what_is_shared_is_read_once(common, counts, blocks):
    before, last = step_of(common, [0] * len(common), counts, 16)
    _, found = answers(MODEL["plain"], before, last, 16, True)
    assert found == blocks * MODEL["plain"].shape.num_kv_heads


@pytest.mark.parametrize("common", [3, 5, 7])
def test_a_block_with_one_page_of_its_own_is_not_shared(common):
    before, last = step_of([common] * 4, [70] * 4, [1] * 4, 16)
    alone, _ = answers(MODEL["plain"], before, last, 16, False)
    shared, blocks = answers(MODEL["plain"], before, last, 16, True)
    np.testing.assert_array_equal(shared, alone)
    whole, each = common * 16 // 64, (common * 16 + 70) // 64 + 1
    assert blocks == 2 * (whole + 4 * (each - whole))


def test_branches_of_branches_share_what_all_of_them_have():
    """One shares less with the next than that one with the one after it."""
    found = []
    for seed in range(8):  # of the page numbers, and so of the order
        before, last = step_of([8, 4, 8, 8], [5] * 4, [1] * 4, 16, [0, 0, 1, 1], seed)
        alone, _ = answers(MODEL["plain"], before, last, 16, False)
        shared, blocks = answers(MODEL["plain"], before, last, 16, True)
        np.testing.assert_array_equal(shared, alone)
        found.append(blocks)
    assert max(found) < 2 * 4 * 3


def test_nobody_shares_what_is_behind_its_own_query():
    before, last = step_of([8, 8], [0, -64], [1, 1], 16)
    alone, _ = answers(MODEL["plain"], before, last, 16, False)
    shared, blocks = answers(MODEL["plain"], before, last, 16, True)
    np.testing.assert_array_equal(shared, alone)
    assert blocks == 2 * (1 + 2 + 1)


def test_the_lengths_of_tables_do_not_mix_up_the_order():
    """One table is the beginning of two others, which differ."""
    before, last = step_of([8, 8, 4, 4, 8, 4], [0, 20, 5, 3, 9, 12], [1] * 6, 16)
    alone, _ = answers(MODEL["plain"], before, last, 16, False)
    shared, _ = answers(MODEL["plain"], before, last, 16, True)
    np.testing.assert_array_equal(shared, alone)


def test_a_window_reads_for_itself():
    before, last = step_of([8] * 4, [1] * 4, [1] * 4, 16)
    alone, count = answers(MODEL["window"], before, last, 16, False)
    shared, same = answers(MODEL["window"], before, last, 16, True)
    np.testing.assert_array_equal(shared, alone)
    assert count == same
