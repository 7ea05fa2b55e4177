"""Metrics are declared once, keep one meaning, and can be read back."""

import itertools
import sys

import pytest

from evolute.telemetry import counter, declarations, gauge, histogram, prometheus_text, snapshot

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    return f"test/thing_{next(_numbers)}"


def test_a_counter_is_seen_in_both_forms(name):
    answered = counter(name, "requests answered", ("route",))
    answered.labels("chat").inc()
    answered.labels("chat").inc(2)
    assert snapshot()[f"{name}{{route=chat}}"] == 3.0
    exposed = "evolute_" + name.replace("/", "_")
    assert f'{exposed}_total{{route="chat"}} 3.0' in prometheus_text()


def test_a_gauge_keeps_its_own_name_even_with_total_at_its_end(name):
    gauge(f"{name}_total", "steps").set(7)
    assert snapshot()[f"{name}_total"] == 7.0
    assert f"evolute_{name.replace('/', '_')}_total 7.0" in prometheus_text()


def test_a_histogram_gives_count_and_sum(name):
    waited = histogram(f"{name}_s", "waiting", (0.1, 1.0))
    for value in (0.05, 0.5, 5.0):
        waited.observe(value)
    values = snapshot()
    assert values[f"{name}_s/count"] == 3.0
    assert values[f"{name}_s/sum"] == pytest.approx(5.55)
    assert not any("bucket" in key for key in values)


def test_the_same_declaration_gives_the_same_instrument(name):
    assert counter(name, "same") is counter(name, "same")


@pytest.mark.parametrize(
    "again",
    [
        lambda name: counter(name, "another text"),
        lambda name: counter(name, "text", ("route",)),
        lambda name: gauge(name, "text"),
    ],
)
def test_another_meaning_for_a_name_is_refused(name, again):
    counter(name, "text")
    with pytest.raises(ValueError, match="declare it once"):
        again(name)


@pytest.mark.parametrize("bad", ["nothing", "Room/thing", "room/", "room/thing-s", "/thing"])
def test_a_name_without_a_room_is_refused(bad):
    with pytest.raises(ValueError, match="room/thing"):
        counter(bad, "text")


def test_declarations_are_listed_by_name(name):
    counter(f"{name}/b", "second")
    counter(f"{name}/a", "first")
    mine = [d for d in declarations() if d.name.startswith(f"{name}/")]
    assert [(d.name, d.kind, d.text) for d in mine] == [
        (f"{name}/a", "counter", "first"),
        (f"{name}/b", "counter", "second"),
    ]


def test_nothing_of_the_default_registry_is_exposed():
    assert "python_info" not in prometheus_text()


def test_an_increment_is_cheap(name):
    import timeit

    counted = counter(name, "cost")
    assert min(timeit.repeat(counted.inc, number=1000, repeat=5)) / 1000 < 50e-6, sys.version
