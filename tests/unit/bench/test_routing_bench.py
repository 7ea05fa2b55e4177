"""The routers beside one another on virtual clocks; counts, so these cannot be flaky."""

import pytest

from evolute.bench import routing
from evolute.bench.registry import run_bench
from evolute.bench.simulated.tenants import BrokenBound
from evolute.engine import EngineConfig
from evolute.types import ConfigError


def test_each_router_does_what_it_is_for():
    result = run_bench("routing", quick=True, model="tiny")
    found = result.figures
    assert found["prefixes/d2lpm/hit_rate"] > 1.5 * found["prefixes/round_robin/hit_rate"]
    assert found["hot/d2lpm/busiest_of_mean"] < found["hot/cache_aware/busiest_of_mean"]
    assert found["hot/d2lpm/sent_to_wait"] == 0 < found["hot/cache_aware/sent_to_wait"]
    assert 0 < found["flood/d2lpm/gap_of_bound"] <= 1
    assert result.to_json() == run_bench("routing", quick=True, model="tiny").to_json()


def test_a_broken_bound_fails_the_bench(monkeypatch):
    monkeypatch.setattr(routing, "fleet_bound", lambda *_: 1.0)
    with pytest.raises(BrokenBound, match="above 1"):
        routing.run(True)


def test_settings_of_a_real_engine_are_refused():
    with pytest.raises(ConfigError, match="drop --set"):
        run_bench("routing", quick=True, config=EngineConfig(max_running=3))
