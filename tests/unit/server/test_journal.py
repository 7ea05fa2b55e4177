"""What changed at run time is known to the next process, whatever happened in between."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.server.journal import FILE, Journal, restore
from evolute.types import RequestError

NAMES = st.sampled_from(["a", "b", "c"])
NOTES = st.one_of(
    st.tuples(st.just("loaded"), NAMES, st.sampled_from(["/x", "/y"])),
    st.tuples(st.just("unloaded"), NAMES),
    st.tuples(st.just("updated"), st.sampled_from([None, "/w"]), st.sampled_from(["1", "new"])),
    st.tuples(st.just("applied"), st.dictionaries(st.sampled_from(["policy", "quantum"]), NAMES)),
)


@given(st.lists(NOTES, max_size=12))
def test_a_new_process_reads_what_the_last_one_wrote(tmp_path_factory, notes):
    folder = tmp_path_factory.mktemp("journal")
    kept, gone, weights, settings = {}, set(), {}, {}
    for name, *values in notes:
        getattr(Journal(folder), name)(*values)  # each by a process of its own
        if name == "loaded":
            kept[values[0]] = values[1]
            gone.discard(values[0])
        elif name == "unloaded":
            kept.pop(values[0], None)
            gone.add(values[0])
        elif name == "updated":
            weights = {"path": values[0], "label": values[1]}
        else:
            settings |= values[0]
    found = Journal(folder)
    assert found.adapters == kept | dict.fromkeys(gone)
    assert (found.weights, found.settings) == (weights, settings)


def test_without_a_directory_paths_are_known_and_nothing_is_kept():
    journal = Journal()
    journal.loaded("a", "/x")
    assert journal.path("a") == "/x" and journal.path("b") == ""
    journal.unloaded("a")
    assert journal.adapters == {}


def test_a_full_disk_is_told_and_the_last_note_stays(tmp_path, monkeypatch, caplog):
    journal = Journal(tmp_path)
    journal.loaded("a", "/x")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    journal.loaded("b", "/y")
    assert "no space" in caplog.text and journal.path("b") == "/y"
    assert json.loads((tmp_path / FILE).read_text())["adapters"] == {"a": "/x"}


class Engine:
    def __init__(self, broken=()):
        self.done, self.broken = [], broken

    def load_adapter(self, name, path):
        if name in self.broken:
            raise RequestError("it does not fit")
        self.done.append((name, path))

    def load_weights(self, weights, *, version):
        self.done.append(("weights", version))

    def apply_settings(self, **changes):
        self.done.append(("settings", changes))


def test_all_is_done_again_and_what_cannot_be_is_told(tmp_path, caplog):
    journal = Journal(tmp_path)
    journal.loaded("a", "/x")
    journal.loaded("b", "/y")
    journal.unloaded("c")
    journal.updated("tiny", "step-7")
    journal.applied({"policy": "lpm"})
    engine = Engine(broken=("a",))
    restore(engine, journal)
    assert engine.done == [("weights", 1), ("b", "/y"), ("settings", {"policy": "lpm"})]
    assert "adapter a is lost" in caplog.text and journal.path("a") == ""


@pytest.mark.parametrize("path", [None, "/gone"])
def test_weights_that_cannot_be_had_lose_their_label(tmp_path, caplog, path):
    journal = Journal(tmp_path)
    journal.updated(path, "step-7")
    engine = Engine()
    restore(engine, journal)
    assert not engine.done and not journal.weights
    assert "step-7" in caplog.text and "the first ones serve" in caplog.text
