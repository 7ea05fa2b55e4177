"""Padding a decode step keeps its rows and gives the others a page that belongs to nobody."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from evolute.engine.execution.batch import Segment, build_batch
from evolute.engine.execution.decode_graphs import MAX_GRAPHS, DecodeGraphs, padded_rows
from evolute.engine.execution.step_inputs import ALIGN, Shape, StepInputs, pad_decodes

CPU = torch.device("cpu")
SPARE = 99
DECODE = st.tuples(st.integers(0, 40), st.integers(-1, 3), st.booleans())


def batch_of(decodes, page_size=4):
    segments = [
        Segment([at], at, range(at // page_size + 1), adapter, at if wants else None)
        for at, adapter, wants in decodes
    ]
    return build_batch(segments)


@given(st.integers(1, 5000))
def test_padded_sizes_are_few_and_near(count):
    rows = padded_rows(count)
    assert count <= rows < max(2 * count, count + 8)
    assert rows in (1, 2, 4, 8) or rows % 8 == 0
    assert padded_rows(rows) == rows


@given(st.lists(DECODE, min_size=1, max_size=20), st.integers(0, 9), st.integers(0, 5))
def test_rows_stay_and_others_are_nobodys(decodes, more_rows, more_pages):
    batch, count = batch_of(decodes), len(decodes)
    rows, pages = count + more_rows, batch.page_table.shape[1] + more_pages
    padded = pad_decodes(batch, rows, pages, SPARE)
    for name in ("token_ids", "positions", "context_len", "adapter"):
        assert np.array_equal(getattr(padded, name)[:count], getattr(batch, name))
    assert np.array_equal(padded.page_table[:count, : batch.page_table.shape[1]], batch.page_table)
    assert (padded.page_table[count:, 0] == SPARE).all()
    assert not padded.positions[count:].any() and (padded.context_len[count:] == 1).all()
    assert (padded.adapter[count:] == -1).all()
    assert np.array_equal(padded.row_start, np.arange(rows + 1))
    assert np.array_equal(padded.logit_rows, np.arange(rows))


@given(st.lists(DECODE, min_size=1, max_size=9), st.lists(DECODE, min_size=1, max_size=9))
def test_buffers_hold_the_step_that_was_filled_in_last(one, two):
    wanted = max(len(one), len(two))
    steps = [pad_decodes(batch_of(decodes), wanted, 11, SPARE) for decodes in (one, two)]
    inputs = StepInputs(Shape.of(steps[0]), CPU)
    places = []
    for step in steps:
        inputs.fill(step, step.adapter)
        for name in ("token_ids", "positions", "row_start", "adapter", "logit_rows"):
            assert np.array_equal(inputs[name].numpy(), getattr(step, name))
        assert np.array_equal(inputs.rows.page_table.numpy(), step.page_table)
        assert np.array_equal(inputs["owner"].numpy(), np.arange(wanted))
        assert inputs.singles == wanted and inputs.has_adapters == (step.adapter >= 0).any()
        places.append([inputs[name].data_ptr() for name in ("owner", "page_table")])
    assert places[0] == places[1]
    assert (places[0][1] - places[0][0]) % (4 * ALIGN) == 0


def test_one_row_sequences_are_counted_from_the_first():
    segments = [
        Segment([1], 0, [0]),
        Segment([1], 4, [1, 2]),
        Segment([1, 2], 0, [3]),
        Segment([1], 0, [4]),
    ]
    batch = build_batch(segments)
    inputs = StepInputs(Shape.of(batch), CPU)
    inputs.fill(batch, batch.adapter)
    assert (inputs.singles, inputs.max_rows, inputs.max_context) == (2, 2, 5)
    assert inputs["owner"].tolist() == [0, 1, 2, 2, 3]


class Counting:
    """A step that adds tokens and positions; recorded ones are counted."""

    def __init__(self):
        self.runs = 0

    def __call__(self, inputs):
        self.runs += 1
        return (inputs["token_ids"] + 1000 * inputs["positions"]).float().unsqueeze(1)


def graphs_of(run, record=lambda run: run, max_pages=64):
    return DecodeGraphs(run, record, device=CPU, page_size=4, max_pages=max_pages, spare=SPARE)


@given(st.lists(st.lists(DECODE, min_size=1, max_size=12), min_size=1, max_size=6))
def test_any_run_of_steps_gives_each_its_own_rows(steps):
    run = Counting()
    graphs = graphs_of(run)
    for decodes in steps:
        batch = batch_of(decodes)
        logits = graphs.forward(batch, batch.adapter, 16)[:, 0].numpy()
        expected = (batch.token_ids + 1000 * batch.positions)[batch.logit_rows]
        assert np.array_equal(logits, expected)
    assert graphs.recorded + graphs.replayed == len(steps) == run.runs
    kinds = {(padded_rows(len(d)), any(a >= 0 for _, a, _ in d)) for d in steps}
    assert graphs.recorded == len(kinds)


def test_what_is_too_much_to_keep_makes_room():
    graphs = graphs_of(Counting())
    for count in (*range(8, 8 * MAX_GRAPHS + 9, 8), 8):
        batch = batch_of([(0, -1, True)] * count)
        graphs.forward(batch, batch.adapter, 0)
    assert graphs.recorded == MAX_GRAPHS + 2 and graphs.replayed == 0


def test_a_step_that_cannot_be_recorded_is_answered_and_graphs_end(caplog):
    def refuse(run):
        raise RuntimeError("out of memory")

    graphs = graphs_of(Counting(), refuse)
    batch = batch_of([(3, -1, True)])
    assert graphs.takes(batch)
    assert graphs.forward(batch, batch.adapter, 0).tolist() == [[3003]]
    assert not graphs.takes(batch) and "switched off" in caplog.text


def test_steps_with_chunks_are_not_taken():
    chunk = build_batch([Segment([1, 2], 0, [0])])
    assert not graphs_of(Counting()).takes(chunk)
