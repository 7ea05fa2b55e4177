"""The tier's bench on the tiny model: what it must show is in counts."""

import pytest

from evolute.bench.registry import run_bench
from evolute.bench.tier import QUICK, plan
from evolute.engine import EngineConfig, resolve
from evolute.models import load_model

TINY = load_model("tiny")


@pytest.mark.parametrize("tier", ["none", "host"])
def test_the_tier_saves_what_the_pool_forgot(tier):
    config = EngineConfig(num_threads=1, tier=tier)
    result = run_bench("tier", quick=True, model=TINY, config=config)
    figures = result.figures
    assert not result.notes and not result.digest.startswith("unstable")
    assert result.config["engine"]["tier"] == ("disk" if tier == "none" else "host")
    assert figures["none/restored_tokens"] == 0 < figures["tier/restored_tokens"]
    assert figures["none/cached_tokens"] == 0, "the pool must forget every session"
    assert figures["tier/faults"] == 0
    whole = result.config["sessions"] * (QUICK.first + QUICK.more + 2 * QUICK.output)
    assert figures["none/computed_tokens"] > 1.5 * whole - figures["tier/computed_tokens"]
    # a disk may be too slow to have kept a page when it is wanted
    assert figures["ratio/computed_tokens"] > (1.3 if tier == "host" else 1.0)


def test_the_working_set_is_four_times_the_pool():
    without, tiered, sessions = plan(TINY, EngineConfig(), QUICK)
    found = resolve(tiered, TINY.config, cores=1, has_native=True)
    pages = sessions * QUICK.longest / 16
    assert pages == pytest.approx(4 * found.num_pages, rel=0.05)
    assert found.num_slots > pages
    assert without.memory_mb == tiered.memory_mb and without.tier == "none"
