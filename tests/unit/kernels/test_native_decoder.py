"""The native step is the references put together; it refuses bad steps before it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from random_model import (
    CONTEXT,
    MODULES,
    SHAPE,
    SHAPES,
    VOCABULARY,
    Model,
    Step,
    packed,
    pool_of,
    random_adapter,
    set_adapter,
)

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
PREFILL = [(0, 1), (0, 70), (0, 130)]
REST = [(1, 2), (70, 71), (130, 147)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("page_size", "dtype"), [(1, "float32"), (5, "float16"), (16, "float32")])
def test_two_steps_are_the_references_put_together(isa, name, page_size, dtype):
    """A step of prompts, then one of decodes and a chunk, which reads what the first wrote."""
    model = Model(SHAPES[name])
    pool = pool_of(model.shape, page_size, 3, dtype)
    pages = model.pages(3 * -(-CONTEXT // page_size), page_size, getattr(torch, dtype))
    decoder = model.native()
    for spans in (PREFILL, REST):
        step = Step.of(spans, page_size)
        expected = step.by_reference(model, pages)
        near = 2e-5 if dtype == "float32" else 2e-3  # a half may round the other way
        assert np.abs(step.run(decoder, pool) - expected).max() < near * np.abs(expected).max()


@pytest.fixture(scope="module")
def tenants() -> Model:
    """Adapters of several ranks on several modules."""
    adapters = {
        0: (random_adapter(SHAPE, dict.fromkeys(MODULES, 4), 1), 2.0),
        3: (random_adapter(SHAPE, {"q": 1, "down": 33}, 2), 0.5),
    }
    return Model(SHAPE, adapters)


def test_adapters_of_mixed_ranks_in_one_step(isa, tenants):
    step = Step.of([(0, 9), (0, 30), (0, 5), (0, 17)], 4, [3, -1, 0, 3])
    got = step.run(tenants.native(), pool_of(SHAPE, 4, 4))
    expected = step.by_reference(tenants, tenants.pages(160, 4, torch.float32))
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()
    plain = Step.of([(0, 9), (0, 30), (0, 5), (0, 17)], 4)
    without = plain.run(tenants.native(), pool_of(SHAPE, 4, 4))
    free = slice(9, 39)
    assert np.array_equal(got[free], without[free])
    assert np.abs(got - without)[39:].max() > 0.01


def test_an_adapter_is_replaced_and_dropped(tenants):
    decoder, step = tenants.native(), Step.of([(0, 9)], 4, [0])
    first = step.run(decoder, pool_of(SHAPE, 4, 1))
    set_adapter(decoder, 0, random_adapter(SHAPE, {"v": 8}, 5), 1.0)
    second = step.run(decoder, pool_of(SHAPE, 4, 1))
    fresh = Model(SHAPE, {0: (random_adapter(SHAPE, {"v": 8}, 5), 1.0)}).native()
    assert np.array_equal(second, step.run(fresh, pool_of(SHAPE, 4, 1)))
    assert not np.array_equal(first, second)
    decoder.drop_adapter(0)
    with pytest.raises(ValueError, match="adapter 0 is not loaded"):
        step.run(decoder, pool_of(SHAPE, 4, 1))
    set_adapter(decoder, 0, {}, 1.0)  # one that changes nothing
    plain = Step.of([(0, 9)], 4)
    assert np.array_equal(
        step.run(decoder, pool_of(SHAPE, 4, 1)), plain.run(decoder, pool_of(SHAPE, 4, 1))
    )


# Each breaks one number of the table of an adapter on q, k and o.
BROKEN: dict[str, tuple[tuple[int, int], int, str]] = {
    "another width": ((0, 3), 47, "A \\[R, K\\]"),
    "other outputs": ((1, 4), 48, "B \\[N, R\\]"),
    "no such layer": ((2, 0), 2, "layer or module"),
    "no such module": ((2, 1), 7, "layer or module"),
    "no rank": ((0, 2), 0, "no rank"),
    "a higher rank": ((2, 2), 10**6, "outside its floats"),
    "rows apart": ((1, 5), 208, "one run"),
    "rows before the first": ((2, 5), -96, "outside its floats"),
    "outputs behind the last": ((2, 6), 10**6, "outside its floats"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused(tenants, name):
    found = packed(random_adapter(SHAPE, {"q": 4, "k": 4, "o": 4}, 1), 1.0)
    table, decoder = found.table(), tenants.native()
    decoder.set_adapter(1, table, found.flat, 1.0)
    at, value, message = BROKEN[name]
    table[at] = value
    with pytest.raises(ValueError, match=message):
        decoder.set_adapter(1, table, found.flat, 1.0)


def test_pages_that_are_not_there_or_too_few_are_refused(tenants):
    found = packed(random_adapter(SHAPE, dict.fromkeys(MODULES, 4), 1), 1.0)
    pool = pool_of(SHAPE, 4, 1)
    with pytest.raises(ValueError, match="no such page"):
        pool.write_floats(np.array([0, 1000], np.int32), found.flat)
    with pytest.raises(ValueError, match="that many floats"):
        pool.write_floats(np.array([3], np.int32), found.flat)
    few, decoder = kernels.PagedFloats(pool, np.array([3], np.int32)), tenants.native()
    with pytest.raises(ValueError, match="outside its floats"):
        decoder.set_adapter(1, found.table(), few, 1.0)


def test_the_number_of_threads_changes_nothing(isa, tenants):
    step = Step.of([(0, 70), (0, 3)], 16, [0, -1])
    decoder = tenants.native(threads=1)
    one = step.run(decoder, pool_of(SHAPE, 16, 2))
    for threads in (2, 5, 1):
        decoder.num_threads = threads
        assert decoder.num_threads == threads
        assert np.array_equal(step.run(decoder, pool_of(SHAPE, 16, 2)), one)
    with pytest.raises(ValueError, match="num_threads"):
        decoder.num_threads = 0


def test_only_the_rows_asked_for_are_computed_in_their_order(tenants):
    step = Step.of([(0, 20), (0, 8)], 4)
    every = step.run(tenants.native(), pool_of(SHAPE, 4, 2))
    step.logit_rows = np.array([27, 3, 3], np.int32)
    assert np.array_equal(step.run(tenants.native(), pool_of(SHAPE, 4, 2)), every[[27, 3, 3]])


def test_a_copied_page_is_as_good_as_its_source(tenants):
    decoder, pool = tenants.native(), pool_of(SHAPE, 16, 2)
    Step.of([(0, 40), (0, 40)], 16).run(decoder, pool)
    decode = Step.of([(40, 41), (40, 41)], 16, seed=4)
    first = decode.run(decoder, pool)[0]
    source, target = decode.page_table[0, :2], decode.page_table[1, :2]
    for one, two in zip(source, target):
        pool.copy_page(int(one), int(two))
    decode.page_table[0, :2] = target
    assert np.array_equal(decode.run(decoder, pool)[0], first)
    with pytest.raises(ValueError, match="page"):
        pool.copy_page(0, 20)


# Each breaks the second sequence of a step; the first would overwrite what is in memory.
BAD: dict[str, tuple[Callable[[Step], None], str]] = {
    "a page that is not there": (lambda s: s.page_table.__setitem__((1, 0), 20), "page 20"),
    "a negative page": (lambda s: s.page_table.__setitem__((1, 2), -1), "page -1"),
    "a position again": (lambda s: s.positions.__setitem__(45, 4), "rise"),
    "falling positions": (lambda s: s.positions.__setitem__(45, 0), "rise"),
    "a position past the context": (lambda s: s.positions.__setitem__(79, 40), "context_len"),
    "a negative position": (lambda s: s.positions.__setitem__(40, -1), "positions"),
    "a context past the page table": (lambda s: s.context_len.__setitem__(1, 161), "context_len"),
    "a negative context": (lambda s: s.context_len.__setitem__(1, -1), "context_len"),
    "a token outside": (lambda s: s.token_ids.__setitem__(60, VOCABULARY), "token id 75"),
    "a negative token": (lambda s: s.token_ids.__setitem__(60, -1), "token id -1"),
    "an unknown adapter": (lambda s: s.adapter.__setitem__(1, 7), "adapter 7"),
    "rows that fall": (lambda s: s.row_start.__setitem__(1, 81), "row_start|positions"),
    "rows that start late": (lambda s: s.row_start.__setitem__(0, 1), "row_start"),
    "rows that end late": (lambda s: s.row_start.__setitem__(2, 81), "row_start"),
    "a logit row outside": (lambda s: s.logit_rows.__setitem__(79, 80), "logit row 80"),
    "a negative logit row": (lambda s: s.logit_rows.__setitem__(0, -1), "logit row -1"),
    "lengths that disagree": (lambda s: setattr(s, "positions", s.positions[1:]), "disagree"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_step_is_refused_before_any_write(tenants, name):
    decoder, pool = tenants.native(), pool_of(SHAPE, 16, 2)
    Step.of([(0, 40), (0, 40)], 16).run(decoder, pool)
    decode = Step.of([(40, 41), (40, 41)], 16)
    before = decode.run(decoder, pool)
    step = Step.of([(0, 40), (0, 40)], 16, seed=3)
    spoil, message = BAD[name]
    spoil(step)
    with pytest.raises(ValueError, match=message):
        step.run(decoder, pool)
    assert np.array_equal(decode.run(decoder, pool), before)
    step = Step.of([(0, 40), (0, 40)], 16, seed=3)
    step.run(decoder, pool)
    assert not np.array_equal(decode.run(decoder, pool), before)  # it would have been seen


@pytest.mark.parametrize("missing", ["a linear layer", "a norm", "a norm of heads", "vocabulary"])
def test_a_decoder_that_is_not_complete_refuses_to_run(missing):
    model = Model(dataclasses.replace(SHAPE, qk_norm=True))
    if missing == "a linear layer":
        del model.linear[1, "down"]
    elif missing != "vocabulary":
        del model.norms[1, "mlp" if missing == "a norm" else "k"]
    decoder = model.native()
    if missing == "vocabulary":
        decoder = kernels.NativeDecoder(model.shape, model.rotary.numpy(), 1)
        for (layer, module), (weight, _) in model.linear.items():
            packed = kernels.PackedLinear.from_float32(weight.numpy())
            decoder.set_linear(layer, module, packed)
        for (layer, name), weight in model.norms.items():
            decoder.set_norm(layer, name, weight.numpy())
    with pytest.raises(ValueError, match="not set"):
        Step.of([(0, 3)], 16).run(decoder, pool_of(SHAPE, 16, 1))


def test_a_pool_of_another_model_is_refused(tenants):
    other = dataclasses.replace(SHAPE, num_layers=1)
    with pytest.raises(ValueError, match="another shape"):
        Step.of([(0, 3)], 16).run(tenants.native(), pool_of(other, 16, 1))


def test_weights_of_another_shape_are_refused(tenants):
    decoder = tenants.native()
    packed = kernels.PackedLinear.from_float32(np.zeros((48, 47), np.float32))
    with pytest.raises(ValueError, match="another shape"):
        decoder.set_linear(0, "o", packed)
    with pytest.raises(ValueError, match="expected 48"):
        decoder.set_norm(0, "mlp", np.zeros(47, np.float32))
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        decoder.set_vocabulary(packed, packed)


def test_head_widths_that_the_kernels_cannot_read_are_refused():
    shape = dataclasses.replace(SHAPE, head_width=20)
    with pytest.raises(ValueError, match="torch executor"):
        kernels.NativeDecoder(shape, np.zeros((8, 20), np.float32), 1)
