"""Finished rollouts are on disk before anybody counts them, and found again after a kill."""

import asyncio
import os

import pytest

from evolute.train.control.groups import Row
from evolute.train.control.pending import Entry, Pending
from evolute.train.control.rows import Rows, restore, unused
from evolute.types import Outcome, Rollout, TrainingError, TrainingSample, VersionSegment


def entry(row, index=0, attempt=0, tag=0):
    versions = (VersionSegment(tag, 1),)
    sample = TrainingSample((1,), (row,), (True,), (-0.1 * index - 1e-17,), versions)
    rollout = Rollout(f"p{row}", row, index, 0.5, Outcome.DONE, (sample,), metadata={"a": (1, 2)})
    return Entry(row, attempt, tag, rollout)


def added(path, *entries):
    async def add():
        pending = Pending(path)
        await asyncio.gather(*map(pending.add, entries))
        return pending

    return asyncio.run(add())


def keys(entries):
    return [(e.row, e.attempt, e.rollout.index) for e in entries]


def test_what_was_added_is_read_in_order_and_equal(tmp_path):
    entries = [entry(row, index) for row in (3, 1, 2) for index in range(4)]
    added(tmp_path / "p", *entries)
    found = Pending(tmp_path / "p").read()
    assert keys(found) == keys(entries)
    assert [e.rollout.samples for e in found] == [e.rollout.samples for e in entries]


def test_many_share_a_sync(tmp_path, monkeypatch):
    syncs = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (syncs.append(1), real(handle)))
    added(tmp_path / "p", *[entry(row) for row in range(50)])
    assert len(syncs) < 25


@pytest.mark.parametrize("torn", [b'{"row": 9', b"\xff\x00garbage", b'{"row": 9}x\n{"row": 4}\n'])
def test_a_torn_tail_does_not_count_and_is_cut(tmp_path, torn):
    path = tmp_path / "p"
    added(path, entry(0), entry(1))
    with path.open("ab") as file:
        file.write(torn)
    pending = added(path, entry(2))
    assert keys(pending.read()) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


def test_an_entry_that_came_twice_counts_once(tmp_path):
    pending = added(tmp_path / "p", entry(0), entry(0, tag=7))
    (found,) = pending.read()
    assert found.tag == 0


def test_what_is_trained_is_forgotten_when_it_pays(tmp_path):
    pending = added(tmp_path / "p", *[entry(row) for row in range(10)])
    assert not pending.forget({(0, 0), (1, 0)})
    assert len(pending.read()) == 10
    assert pending.forget({(row, 0) for row in range(7)})
    assert keys(pending.read()) == [(7, 0, 0), (8, 0, 0), (9, 0, 0)]
    assert pending.forget({(row, 0) for row in range(10)})
    assert pending.read() == []


def test_a_disk_that_refuses_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"could not be written.*No space"):
        added(tmp_path / "p", entry(0))


def record(used=(), dropped=(), requeued=()):
    return {"used": used, "dropped": dropped, "requeued": requeued}


def drawn(rows, count):
    return [rows.draw().key for _ in range(count)]


def test_a_killed_run_goes_on_with_what_it_had():
    entries = [
        *[entry(0, i) for i in range(2)],  # trained
        *[entry(3, i) for i in range(2)],  # finished, waits
        entry(2, 1),  # half of it
        *[entry(1, i) for i in range(2)],  # dropped
        *[entry(5, i) for i in range(2)],  # finished later
        *[entry(4, i) for i in range(2)],  # sent back, and begun again
        entry(4, 0, attempt=1),
    ]
    state = restore(entries, [record([[0, 0]], [[1, 0]]), record(requeued=[[4, 0]])], 2)
    assert state.finished == [Row(3), Row(5)]
    assert (state.num_used, state.num_dropped) == (1, 2)
    assert drawn(state.rows, 4) == [(2, 0), (4, 1), (6, 0), (7, 0)]
    assert {key: sorted(p.rollouts) for key, p in state.played.items()} == {
        (3, 0): [0, 1],
        (5, 0): [0, 1],
        (2, 0): [1],
        (4, 1): [0],
    }


def test_a_row_that_was_drawn_and_has_nothing_is_drawn_again():
    state = restore([entry(4, i) for i in range(2)], [record([[0, 0], [2, 0]])], 2)
    assert drawn(state.rows, 4) == [(1, 0), (3, 0), (5, 0), (6, 0)]


def test_a_new_run_begins_at_the_first_row():
    assert drawn(restore([], [], 2).rows, 2) == [(0, 0), (1, 0)]


def test_the_oldest_row_that_came_back_goes_first():
    rows = Rows()
    drawn(rows, 5)
    for number in (3, 1, 4):
        rows.give_back(Row(number, 1))
    assert drawn(rows, 4) == [(1, 1), (3, 1), (4, 1), (5, 0)]


def test_rounds_keep_what_no_counted_step_has_used():
    entries = [entry(0), entry(1), entry(1, 1), entry(1, 0, attempt=1)]
    found = unused(entries, [record([[0, 0]])])
    assert {key: sorted(p.rollouts) for key, p in found.items()} == {(1, 0): [0, 1], (1, 1): [0]}
