"""A copy is made when it is cheaper, and what was measured once is measured again."""

import pytest

from evolute.engine import EngineConfig, resolve
from evolute.engine.memory import Costs
from evolute.engine.memory.costs import PROBE_EVERY
from evolute.models import load_model
from evolute.types import ConfigError


def measured(page_s, token_s):
    costs = Costs()
    costs.copied(10, 10 * page_s)
    costs.computed(100, 100 * token_s)
    return costs


def test_the_cheaper_one_is_preferred():
    assert measured(0.01, 0.001).prefers_copy(3, 48)  # 0.03 s beside 0.048
    assert not measured(0.02, 0.001).prefers_copy(3, 48)


def test_what_is_not_known_is_tried():
    costs = Costs()
    assert costs.prefers_copy(1, 16)
    costs.copied(1, 1e9)
    assert costs.prefers_copy(1, 16), "what computing costs is not known"
    costs.computed(31, 1.0)
    assert costs.token_s is None, "a step of few tokens tells nothing of prompts"


def test_averages_follow_what_is_measured():
    costs = measured(0.01, 0.001)
    for _ in range(60):
        costs.copied(1, 0.05)
        costs.computed(50, 0.1)
    assert costs.page_s == pytest.approx(0.05, rel=0.01)
    assert costs.token_s == pytest.approx(0.002, rel=0.01)
    before = costs.page_s
    costs.copied(0, 5.0)
    assert costs.page_s == before


def test_now_and_then_a_dear_copy_is_tried_again():
    costs, tried = measured(1.0, 0.001), 0
    for _ in range(10 * PROBE_EVERY):
        if costs.prefers_copy(1, 16):
            tried += 1
            costs.copied(1, 1.0)
        else:
            costs.declined()
    assert tried == 10


@pytest.mark.parametrize(("name", "answer"), [("always", True), ("never", False)])
def test_it_can_be_forced(name, answer):
    costs = Costs(name)
    costs.copied(1, 1.0)
    costs.computed(100, 100.0 if name == "never" else 0.01)
    assert costs.prefers_copy(1, 16) is answer


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tier": "disk", "prefix_cache": False}, "prefix_cache is false"),
        ({"tier_dir": "/somewhere"}, "tier_dir is set, but engine.tier is 'none'"),
        ({"tier": "host", "tier_dir": "/somewhere"}, "tier_dir is set, but engine.tier is 'host'"),
        ({"tier_restore": "never"}, "tier_restore is set"),
        ({"tier": "disk", "tier_mb": 0}, "tier_mb is 0"),
        ({"tier": "disk", "tier_queue_mb": -1}, "tier_queue_mb is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, text):
    with pytest.raises(ConfigError, match=text):
        EngineConfig(**settings)


def test_slots_are_as_large_as_pages():
    tiny = load_model("tiny").config
    config = EngineConfig(tier="disk", tier_mb=3, page_size=16)
    found = resolve(config, tiny, cores=1, has_native=True)
    assert found.num_slots == 3 * 2**20 // found.page_bytes
    assert resolve(EngineConfig(), tiny, cores=1, has_native=True).num_slots == 0
