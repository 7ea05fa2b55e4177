"""The part of the optimum that each policy finds; exact counts, so these cannot be flaky."""

import pytest

from evolute.bench.radix import (
    MAX_RUNNING,
    cold_request,
    hit_rate,
    overhead,
    pool_pages,
    shapes,
)
from evolute.bench.shapes import WorkItem
from evolute.engine import EngineConfig
from evolute.engine.scheduling import Arrival, SimulationSettings, simulate
from evolute.engine.scheduling.policies.arrival import MAX_PASSES
from evolute.models import load_model


@pytest.fixture(scope="module")
def found():
    return shapes(1, 0.5)


@pytest.mark.parametrize("policy", ["lpm", "dlpm"])
def test_with_room_for_all_the_optimum_is_found(found, policy):
    assert found[f"page1/large/{policy}/mean"] >= 0.96


def test_nothing_exceeds_the_optimum(found):
    assert all(0 <= part <= 1 for part in found.values())


def test_with_little_room_the_order_matters(found):
    assert found["page1/small/lpm/mean"] > found["page1/small/fcfs/mean"]


def test_two_prompts_of_one_prefix_are_counted_by_hand():
    prefix = tuple(range(10, 20))
    items = [WorkItem(str(i), prefix + (100 + i, 200 + i), 1) for i in range(3)]
    rate = hit_rate(items, "lpm", 100)
    assert (rate.cached, rate.shareable, rate.total) == (20, 20, 36)
    assert pool_pages(items, 1, is_large=True) >= 36


@pytest.mark.parametrize("policy", ["lpm", "dlpm"])
def test_a_cold_request_is_passed_over_a_bounded_number_of_times(policy):
    passed = cold_request(policy)
    assert 0 < passed <= MAX_PASSES + MAX_RUNNING


def test_what_comes_after_another_waits_for_its_end():
    first = Arrival(0, (1, 2, 3), 5)
    replay = simulate([first, Arrival(0, (4, 5), 1, after=(0,))], SimulationSettings(20, 4))
    began = {who: at for at, step in reversed(list(enumerate(replay.schedule))) for who, _ in step}
    ended = max(at for at, step in enumerate(replay.schedule) if any(who == 0 for who, _ in step))
    assert began[1] == ended + 1
    assert replay.waited_steps == [0, 0]


def test_the_tree_is_timed_and_finds_nothing():
    figures = overhead(load_model("tiny"), EngineConfig(num_threads=1), 4)
    assert 0 < figures["tree_seconds"] < figures["seconds"]
    assert figures["cached_tokens"] == 0
