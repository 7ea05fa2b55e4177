"""Spans survive threads, errors and kills; a tracer that is off does nothing."""

import threading

import pytest

from evolute.telemetry import Tracer, read_trace


def test_a_span_has_its_name_times_and_ids(tmp_path):
    file = tmp_path / "trace.jsonl"
    tracer = Tracer(file)
    before = tracer.now_s()
    with tracer.span("engine/step", request="req-3", step=7):
        pass
    tracer.close()
    (span,) = read_trace(file)
    assert (span.name, dict(span.ids)) == ("engine/step", {"request": "req-3", "step": 7})
    assert before <= span.start_s <= span.end_s


def test_a_span_is_written_when_its_block_fails(tmp_path):
    tracer = Tracer(tmp_path / "t")
    with pytest.raises(RuntimeError), tracer.span("train/update"):
        raise RuntimeError
    tracer.close()
    assert [span.name for span in read_trace(tmp_path / "t")] == ["train/update"]


def test_inner_spans_come_after_the_outer_one_that_holds_them(tmp_path):
    tracer = Tracer(tmp_path / "t")
    with tracer.span("outer"), tracer.span("inner"):
        pass
    tracer.close()
    outer, inner = read_trace(tmp_path / "t")
    assert (outer.name, inner.name) == ("outer", "inner")
    assert outer.start_s <= inner.start_s <= inner.end_s <= outer.end_s


def test_a_tracer_that_is_off_writes_nothing_and_makes_no_objects():
    tracer = Tracer(None)
    assert not tracer.is_enabled
    assert tracer.span("a") is tracer.span("b")
    with tracer.span("a"):
        tracer.add("b", 0.0, 1.0)
    tracer.close()


def test_ids_cannot_replace_a_spans_own_fields(tmp_path):
    tracer = Tracer(tmp_path / "t")
    tracer.add("real", 1.0, 2.0, **{"thread": "forged"})
    tracer.close()
    (span,) = read_trace(tmp_path / "t")
    assert span.thread == threading.current_thread().name


def test_threads_do_not_tear_each_others_lines(tmp_path):
    tracer = Tracer(tmp_path / "t", buffer=7)

    def work(number):
        for i in range(50):
            tracer.add("x", i, i + 1, worker=number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracer.close()
    assert len(read_trace(tmp_path / "t")) == 200


def test_spans_are_buffered_and_flush_puts_them_on_disk(tmp_path):
    tracer = Tracer(tmp_path / "t", buffer=100)
    tracer.add("x", 0.0, 1.0)
    assert read_trace(tmp_path / "t") == []
    tracer.flush()
    assert len(read_trace(tmp_path / "t")) == 1
    tracer.close()


def test_after_close_spans_are_dropped(tmp_path):
    tracer = Tracer(tmp_path / "t")
    tracer.close()
    tracer.close()
    tracer.add("late", 0.0, 1.0)
    assert read_trace(tmp_path / "t") == []


def test_a_torn_last_line_is_ignored(tmp_path):
    file = tmp_path / "t"
    tracer = Tracer(file)
    tracer.add("whole", 0.0, 1.0)
    tracer.close()
    with file.open("a") as end:
        end.write('{"name": "to')
    assert [span.name for span in read_trace(file)] == ["whole"]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "t").write_text('{"kind": "eval"}\n')
    with pytest.raises(ValueError, match="not a trace"):
        read_trace(tmp_path / "t")
