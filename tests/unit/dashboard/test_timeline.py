"""A timeline nests what lies inside, counts own time once, and draws every lane."""

import re

import pytest

from evolute.dashboard import write_timeline
from evolute.dashboard.timeline import MAX_DRAWN, place
from evolute.telemetry import Span, Tracer


def spans(*rows, thread="main", process=1):
    return [Span(name, start, end, process, thread) for name, start, end in rows]


def test_a_span_inside_another_lies_below_it_and_its_time_counts_once():
    found = place(spans(("inner", 1.0, 3.0), ("outer", 0.0, 10.0), ("later", 4.0, 5.0)))
    (placed,) = found.values()
    assert [(p.span.name, p.depth, p.own_s) for p in placed] == [
        ("outer", 0, 7.0),
        ("inner", 1, 2.0),
        ("later", 1, 1.0),
    ]


def test_spans_one_after_the_other_share_a_row():
    (placed,) = place(spans(("a", 0.0, 1.0), ("b", 1.0, 2.0))).values()
    assert [p.depth for p in placed] == [0, 0]


def test_spans_that_overlap_without_nesting_do_not_hide_each_other():
    (placed,) = place(spans(("a", 0.0, 2.0), ("b", 1.0, 3.0))).values()
    assert [(p.depth, p.own_s) for p in placed] == [(0, 2.0), (1, 2.0)]


def test_own_times_of_nested_spans_add_up_to_the_whole():
    (placed,) = place(
        spans(("a", 0.0, 9.0), ("b", 1.0, 8.0), ("c", 2.0, 3.0), ("c", 4.0, 7.5))
    ).values()
    assert sum(p.own_s for p in placed) == pytest.approx(9.0)


def test_each_thread_of_each_process_has_a_lane():
    both = spans(("a", 0.0, 1.0)) + spans(("a", 0.0, 1.0), thread="engine")
    both += spans(("a", 0.0, 1.0), process=2)
    assert list(place(both)) == [(1, "engine"), (1, "main"), (2, "main")]


def test_the_page_shows_every_span_and_its_ids(tmp_path):
    for number in (0, 1):
        tracer = Tracer(tmp_path / f"{number}.jsonl")
        tracer.add("engine/step", 10.0, 10.5, request=f"<req-{number}>")
        tracer.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    page = write_timeline(files, tmp_path / "t.html").read_text()
    assert page.count("<rect") == 2
    assert "engine/step 0.5 s request &lt;req-1&gt;" in page
    assert not re.search(r"https?://|<script", page)


def test_of_many_spans_the_longest_are_drawn_and_all_are_counted(tmp_path):
    tracer = Tracer(tmp_path / "t.jsonl")
    for i in range(MAX_DRAWN + 100):
        tracer.add("x/y", i, i + 1 + i / 1e6)
    tracer.close()
    page = write_timeline([tmp_path / "t.jsonl"], tmp_path / "t.html").read_text()
    assert page.count("<rect") == MAX_DRAWN
    assert f"The {MAX_DRAWN} longest of {MAX_DRAWN + 100}" in page


def test_no_spans_are_said(tmp_path):
    page = write_timeline([tmp_path / "none"], tmp_path / "t.html").read_text()
    assert "No span was recorded" in page
