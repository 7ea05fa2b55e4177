"""What the system did: records and progress."""

from evolute.telemetry.metrics import counter, gauge, histogram, prometheus_text
from evolute.telemetry.progress import Progress, progress
from evolute.telemetry.records import RecordWriter, read_records, repair

__all__ = [
    "Progress",
    "RecordWriter",
    "counter",
    "gauge",
    "histogram",
    "progress",
    "prometheus_text",
    "read_records",
    "repair",
]
