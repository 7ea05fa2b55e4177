"""What the system did: metrics, traces, records, logs and progress. Imports no torch."""

from evolute.telemetry.log import configure
from evolute.telemetry.metrics import (
    Declaration,
    counter,
    declarations,
    gauge,
    histogram,
    prometheus_text,
    snapshot,
)
from evolute.telemetry.progress import Progress, progress
from evolute.telemetry.records import RecordWriter, read_records, repair
from evolute.telemetry.trace import Span, Tracer, read_trace

__all__ = [
    "Declaration",
    "Progress",
    "RecordWriter",
    "Span",
    "Tracer",
    "configure",
    "counter",
    "declarations",
    "gauge",
    "histogram",
    "progress",
    "prometheus_text",
    "read_records",
    "read_trace",
    "repair",
    "snapshot",
]
