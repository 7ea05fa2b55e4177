"""How is it going, in numbers: counters, gauges and histograms, declared once.

    requests = counter("server/requests", "requests answered", ("route",))
    requests.labels("chat").inc()
    prometheus_text()            what /metrics answers

Names are room/thing with the unit at the end; Prometheus sees underscores for slashes.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()  # our own: a host program's metrics stay apart


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """A number that only grows. Declaring a name twice is an error."""
    return Counter(_prometheus(name), text, labels, registry=REGISTRY)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A number that goes up and down."""
    return Gauge(_prometheus(name), text, labels, registry=REGISTRY)


def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
    """A distribution over fixed upper bounds."""
    return Histogram(_prometheus(name), text, buckets=tuple(buckets), registry=REGISTRY)


def prometheus_text() -> str:
    """Everything declared, in Prometheus' text format."""
    return generate_latest(REGISTRY).decode()


def _prometheus(name: str) -> str:
    return "evolute_" + name.replace("/", "_")
