"""The buffer's file: any order of changes, two writers, a kill between any two statements."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evolute.reasoning.thought_buffer import Buffer, Slot, Stats, ThoughtTemplate
from evolute.reasoning.thought_buffer.manager import Decision, should_retire
from evolute.testing import HashingEmbedder
from evolute.types import ConfigError

WORDS = ("numbers", "words", "dates", "mates", "shapes", "rows", "sums", "poems")
names = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
SLOT = (Slot("text", "str", "text"),)


def template(description, body="print(text)"):
    return ThoughtTemplate("mathematics", description, "code", body, SLOT)


class TwoWritersAgree(RuleBasedStateMachine):
    """Two open buffers on one file, and a dict that says what must be in it."""

    def __init__(self):
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name) / "t.db"
        self.writers = [Buffer(self.path, HashingEmbedder()) for _ in range(2)]
        self.known = {}  # id -> [template, success, failure, is retired]

    def teardown(self):
        for writer in self.writers:
            writer.close()
        self._directory.cleanup()

    def pick(self, data, *, live=False):
        ids = [id for id, row in self.known.items() if not (live and row[3])]
        return data.draw(st.sampled_from(sorted(ids))) if ids else None

    @rule(who=st.integers(0, 1), description=names, body=st.sampled_from(["print(text)", "x = 1"]))
    def add(self, who, description, body):
        new = template(description, body)
        decision = asyncio.run(self.writers[who].add(new))
        row = self.known.get(new.id)
        is_live = row is not None and not row[3]
        assert decision.keep is not is_live
        if decision.keep:
            self.known[new.id] = [new, 0, 0, False]

    @rule(who=st.integers(0, 1), description=names)
    def refuse(self, who, description):
        asyncio.run(
            self.writers[who].add(template(description, "y"), lambda *_: Decision(False, "no"))
        )

    @precondition(lambda self: self.known)
    @rule(who=st.integers(0, 1), data=st.data(), ok=st.booleans(), times=st.integers(1, 9))
    def record(self, who, data, ok, times):
        row = self.known[id] if (id := self.pick(data)) else None
        for _ in range(times):
            row[1 if ok else 2] += 1
            is_due = should_retire(Stats(row[1], row[2])) and not row[3]
            assert self.writers[who].record(id, ok) is is_due
            row[3] |= is_due

    @precondition(lambda self: self.known)
    @rule(who=st.integers(0, 1), data=st.data(), back=st.booleans())
    def retire(self, who, data, back):
        id = self.pick(data)
        (self.writers[who].restore if back else self.writers[who].retire)(id)
        self.known[id][3] = not back

    @precondition(lambda self: len(self.known) > 1)
    @rule(who=st.integers(0, 1), data=st.data())
    def merge(self, who, data):
        into, other = self.pick(data), self.pick(data)
        if into == other:
            with pytest.raises(ConfigError, match="itself"):
                self.writers[who].merge(into, other)
            return
        self.writers[who].merge(into, other)
        kept, gone = self.known[into], self.known[other]
        kept[1], kept[2] = kept[1] + gone[1], kept[2] + gone[2]
        gone[1:] = [0, 0, True]

    @precondition(lambda self: self.known)
    @rule(who=st.integers(0, 1), data=st.data(), description=names)
    def edit(self, who, data, description):
        id = self.pick(data)
        self.known[id][0] = asyncio.run(self.writers[who].edit(id, description=description))

    @rule(who=st.integers(0, 1))
    def reopen(self, who):
        self.writers[who].close()
        self.writers[who] = Buffer(self.path, HashingEmbedder())

    @rule()
    def export_and_load(self):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "t.jsonl"
            assert self.writers[0].export(file) == len(self.writers[0].all())
            with Buffer(Path(directory) / "other.db", HashingEmbedder()) as other:
                added, known = asyncio.run(other.load(file))
                assert (added, known) == (len(self.writers[0].all()), 0)
                assert other.all() == self.writers[0].all()

    @invariant()
    def both_see_what_was_done(self):
        expected = {id: (row[0].description, row[1], row[2]) for id, row in self.known.items()}
        for writer in self.writers:
            found = writer.all(retired=True)
            assert {
                t.id: (t.description, t.stats.success, t.stats.failure) for t in found
            } == expected
            live = {t.id for t in writer.all()}
            assert live == {id for id, row in self.known.items() if not row[3]}

    @invariant()
    def both_retrieve_the_same_and_exactly(self):
        query = "numbers and words"
        one, other = (asyncio.run(w.nearest(query, limit=99)) for w in self.writers)
        assert one == other
        live = [row[0] for row in self.known.values() if not row[3]]
        rows = asyncio.run(HashingEmbedder().embed([query, *(t.description for t in live)]))
        cosines = {t.id: float(c) for t, c in zip(live, rows[1:] @ rows[0])}
        assert {m.id: m.similarity for m in one} == pytest.approx(cosines, abs=1e-6)
        scores = [m.score for m in one]
        assert scores == sorted(scores, reverse=True)


TwoWritersAgree.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestTwoWritersAgree = TwoWritersAgree.TestCase


CHANGES = {  # what is done to an open buffer; opening it is part of the change
    "open": lambda buffer, first, second, file: None,
    "add": lambda buffer, first, second, file: asyncio.run(buffer.add(template("new sums"))),
    "record": lambda buffer, first, second, file: buffer.record(first, True),
    "retire": lambda buffer, first, second, file: buffer.retire(first),
    "merge": lambda buffer, first, second, file: buffer.merge(first, second),
    "replace": lambda buffer, first, second, file: asyncio.run(
        buffer.replace(first, template("new sums"))
    ),
    "edit": lambda buffer, first, second, file: asyncio.run(
        buffer.edit(first, description="poems", body="print(1)")
    ),
    "load": lambda buffer, first, second, file: asyncio.run(buffer.load(file)),
    "rebuild": lambda buffer, first, second, file: asyncio.run(buffer.rebuild()),
}


def ends(change, path, ids, last):
    """Do it in a child that kills itself before statement `last`; whether it came to its end."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        return status == 0
    try:
        count = 0

        class Counting(sqlite3.Connection):
            def execute(self, *words):
                nonlocal count
                count += 1
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().execute(*words)

        connect = sqlite3.connect
        sqlite3.connect = lambda *a, **k: connect(*a, factory=Counting, **k)
        with Buffer(path, HashingEmbedder()) as buffer:
            CHANGES[change](buffer, *ids, f"{path}.jsonl")
        os._exit(0)
    finally:  # an exception: nothing of pytest's may go on in the child
        os._exit(3)


def state(path):
    with Buffer(path, HashingEmbedder()) as buffer:
        matches = asyncio.run(buffer.nearest("sums of rows", limit=99))
        rows = [(t, buffer.is_retired(t.id)) for t in buffer.all(retired=True)]
        return rows, matches


def prepared(path):
    """Three templates, one of them retired, with outcomes; and an export with a fourth."""
    with Buffer(path, HashingEmbedder()) as buffer:
        made = [template(name) for name in ("sums of numbers", "rows of words", "dates")]
        for one in made:
            asyncio.run(buffer.add(one))
            buffer.record(one.id, True)
        buffer.retire(made[2].id)
    with Buffer(f"{path}.other", HashingEmbedder()) as other:
        for name in ("mates", "shapes"):
            asyncio.run(other.add(template(name)))
        other.export(f"{path}.jsonl")
    return made[0].id, made[1].id


@pytest.mark.parametrize("change", [*sorted(CHANGES), "create"])
def test_a_kill_between_any_two_statements_leaves_before_or_after(tmp_path, change):
    origin = str(tmp_path / "origin.db")
    ids = prepared(origin)
    before, seen, has_ended = ([], []) if change == "create" else state(origin), [], False
    for last in range(1, 80):
        path = str(tmp_path / f"{last}.db")
        if change != "create":
            shutil.copy(origin, path)
            shutil.copy(f"{origin}.jsonl", f"{path}.jsonl")
        has_ended = ends("open" if change == "create" else change, path, ids, last)
        seen.append(state(path))
        if has_ended:
            break
    assert has_ended and last > 5, "the change never ended, or nothing was killed"
    after = seen[-1]
    assert all(found in (before, after) for found in seen)
    assert (after != before) is (change not in ("open", "create", "rebuild"))


def test_two_processes_that_add_the_same_news_keep_one(tmp_path):
    path = str(tmp_path / "t.db")
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from evolute.reasoning.thought_buffer import Buffer
from evolute.reasoning.thought_buffer.manager import Evidence, decide
from evolute.testing import HashingEmbedder
from test_thought_buffer_file import template
async def work(buffer):
    for k in range(12):
        news = template(f"sums of numbers {{k % 3}}", f"x = {{k}}; print(text, {{sys.argv[1]}})")
        await buffer.add(news, lambda n, m: decide(n, m, Evidence(True), new_below=0.5))
    for _ in range(25):
        buffer.record(buffer.all()[0].id, True)
with Buffer({path!r}, HashingEmbedder()) as buffer:
    asyncio.run(work(buffer))
"""
    both = [subprocess.Popen([sys.executable, "-c", code, str(k)]) for k in range(2)]
    assert [one.wait(timeout=90) for one in both] == [0, 0]
    with Buffer(path, HashingEmbedder()) as buffer:
        assert len(buffer.all()) == 1 and buffer.all()[0].stats == Stats(50, 0)


def test_another_embedder_is_refused_until_rebuild(tmp_path):
    path = tmp_path / "t.db"
    with Buffer(path, HashingEmbedder()) as buffer:
        asyncio.run(buffer.add(template("sums")))
    other = HashingEmbedder(64, "other")
    with pytest.raises(ConfigError, match="evolute thoughts rebuild"):
        Buffer(path, other)
    with Buffer(path, other, rebuilding=True) as buffer:
        assert asyncio.run(buffer.rebuild()) == 1
    with Buffer(path, other) as buffer:
        (match,) = asyncio.run(buffer.nearest("sums"))
        assert match.similarity == pytest.approx(1, abs=1e-6)
    with Buffer(path) as buffer:
        assert len(buffer.all()) == 1
        with pytest.raises(ConfigError, match="embedding model"):
            asyncio.run(buffer.nearest("sums"))


def test_files_that_are_no_buffer_are_refused_untouched(tmp_path):
    text = tmp_path / "a.db"
    text.write_text("no database at all, but long enough to have a header of its own" * 9)
    with pytest.raises(ConfigError, match="no thought buffer"):
        Buffer(text)
    foreign = tmp_path / "b.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE notes (line TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="no thought buffer"):
        Buffer(foreign)
    newer = tmp_path / "c.db"
    Buffer(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ConfigError, match="update Evolute"):
        Buffer(newer)
    with pytest.raises(ConfigError, match="cannot be"):
        Buffer(tmp_path / "none" / "d.db")


def test_a_bad_line_adds_nothing(tmp_path):
    file = tmp_path / "t.jsonl"
    with Buffer(tmp_path / "t.db", HashingEmbedder()) as buffer:
        asyncio.run(buffer.add(template("sums")))
        buffer.export(file)
        file.write_text(file.read_text() + '{"kind": "code"}\n')
        buffer.retire(buffer.all()[0].id)
        with pytest.raises(ConfigError, match="no thought template"):
            asyncio.run(buffer.load(file))
        assert buffer.all() == []


def test_vectors_are_unit_rows():
    rows = asyncio.run(HashingEmbedder().embed(["a b c", "", "a"]))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
