"""Records outlive a kill at any byte."""

import math

import pytest

from evolute.telemetry import RecordWriter, read_records, repair

RECORDS = [{"step": 0, "text": "two\nlines \u2028 and more"}, {"step": 1}, {"step": 2}]


def test_what_is_written_is_read(tmp_path):
    with RecordWriter(tmp_path / "deep" / "r.jsonl") as writer:
        for record in RECORDS:
            writer.write(record)
    assert read_records(tmp_path / "deep" / "r.jsonl") == RECORDS


def test_a_record_is_on_disk_when_write_returns(tmp_path):
    writer = RecordWriter(tmp_path / "r")
    writer.write({"a": 1})
    assert read_records(tmp_path / "r") == [{"a": 1}]
    writer.close()


def test_no_file_holds_no_records(tmp_path):
    assert read_records(tmp_path / "none") == []
    repair(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_kill_at_any_byte_loses_only_the_torn_record(tmp_path):
    file = tmp_path / "r"
    with RecordWriter(file) as writer:
        for record in RECORDS:
            writer.write(record)
    content = file.read_bytes()
    for cut in range(len(content)):
        file.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        with RecordWriter(file) as writer:
            writer.write({"after": cut})
        assert read_records(file) == [*RECORDS[:whole], {"after": cut}]


@pytest.mark.parametrize("size", [10, (1 << 16) - 1, 1 << 16, (1 << 17) + 5])
def test_a_long_torn_line_is_cut_off_whole(tmp_path, size):
    file = tmp_path / "r"
    file.write_bytes(b'{"a": 1}\n' + b"x" * size)
    repair(file)
    assert file.read_bytes() == b'{"a": 1}\n'
    file.write_bytes(b"x" * size)
    repair(file)
    assert file.read_bytes() == b""


def test_reading_stops_before_a_damaged_line(tmp_path):
    (tmp_path / "r").write_bytes(b'{"a": 1}\n\xff\xfe\n{"a": 2}\n')
    assert read_records(tmp_path / "r") == [{"a": 1}]


def test_an_unbounded_interval_survives(tmp_path):
    with RecordWriter(tmp_path / "r") as writer:
        writer.write({"high": math.inf})
    assert read_records(tmp_path / "r") == [{"high": math.inf}]
