"""How is it going, in numbers: counters, gauges and histograms, declared once.

    REQUESTS = counter("server/requests", "requests answered", ("route",))
    REQUESTS.labels("chat").inc()
    prometheus_text()            what /metrics answers
    snapshot()                   the same as {"server/requests{route=chat}": 3.0}
    declarations()               what the reference page is made from

Names are room/thing[/stat] with the unit at the end (_s, _bytes, _tokens, _frac). The room that
emits a metric declares it when it is imported; Prometheus sees underscores for slashes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

REGISTRY = CollectorRegistry()  # our own: a host program's metrics stay apart
NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)+")
Instrument = TypeVar("Instrument", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric as its room declared it."""

    name: str
    kind: str  # counter, gauge, histogram: how values of several processes are put together
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, for a histogram


_declared: dict[str, tuple[Declaration, MetricWrapperBase]] = {}


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """A number that only grows. Prometheus shows it with `_total` at the end."""
    return _declare(Counter, Declaration(name, "counter", text, tuple(labels)))


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A number that goes up and down."""
    return _declare(Gauge, Declaration(name, "gauge", text, tuple(labels)))


def histogram(
    name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
) -> Histogram:
    """A distribution over fixed upper bounds, which must rise."""
    return _declare(Histogram, Declaration(name, "histogram", text, tuple(labels), tuple(buckets)))


def declarations() -> list[Declaration]:
    """Every metric of the rooms imported so far, by name."""
    return [_declared[name][0] for name in sorted(_declared)]


def prometheus_text() -> str:
    """Everything declared, in Prometheus' text format."""
    return generate_latest(REGISTRY).decode()


def snapshot() -> dict[str, float]:
    """Present values by our own names; a histogram gives its `/count` and `/sum`."""
    values = {}
    for name, (declaration, instrument) in sorted(_declared.items()):
        own_name = {_exposed(name): name, f"{_exposed(name)}_total": name}
        if declaration.kind == "histogram":
            own_name = {f"{_exposed(name)}_{stat}": f"{name}/{stat}" for stat in ("count", "sum")}
        for metric in instrument.collect():
            for sample in metric.samples:
                own = own_name.get(sample.name)
                if own is None:  # buckets, and when a series was made
                    continue
                labels = ",".join(f"{k}={sample.labels[k]}" for k in declaration.labels)
                values[f"{own}{{{labels}}}" if labels else own] = sample.value
    return values


# -- internals ---------------------------------------------------------------


def _declare(make: type[Instrument], new: Declaration) -> Instrument:
    """Declaring the same thing again gives the same instrument; another meaning is an error."""
    if not NAME.fullmatch(new.name):
        raise ValueError(
            f"metric {new.name!r}: a name is room/thing[/stat] in lower case with underscores."
        )
    if new.name in _declared:
        old, instrument = _declared[new.name]
        if old != new or not isinstance(instrument, make):
            raise ValueError(
                f"metric {new.name!r} is declared as {old.kind} ({old.text!r}, labels "
                f"{old.labels}) and again otherwise; declare it once, in the room that emits it."
            )
        return instrument
    settings: dict[str, Any] = {"buckets": new.buckets} if new.kind == "histogram" else {}
    made = make(_exposed(new.name), new.text, new.labels, registry=REGISTRY, **settings)
    _declared[new.name] = (new, made)
    return made


def _exposed(name: str) -> str:
    return "evolute_" + name.replace("/", "_")
