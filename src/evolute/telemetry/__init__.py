"""What the system did: records, logs, progress."""

from evolute.telemetry.records import RecordWriter, read_records, repair

__all__ = ["RecordWriter", "read_records", "repair"]
