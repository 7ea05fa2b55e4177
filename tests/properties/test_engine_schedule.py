"""Schedules keep within their limits, always come to an end, and reuse what can be reused."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.engine.scheduling import Arrival, SimulationSettings, simulate
from evolute.engine.scheduling.policies.arrival import MAX_PASSES

POLICIES = ["fcfs", "lpm", "vtc", "dlpm", "priority"]


@st.composite
def workloads(draw):
    page_size = draw(st.sampled_from([1, 4, 16]))
    num_pages = draw(st.integers(4, 40))
    slots = num_pages * page_size
    arrivals = []
    for _ in range(draw(st.integers(1, 12))):
        prompt = draw(st.lists(st.integers(0, 1), min_size=1, max_size=min(slots - 1, 60)))
        output = draw(st.integers(1, min(slots - len(prompt), 30)))
        who = draw(st.sampled_from("abc")), draw(st.sampled_from([0, 0, 5, 20]))
        arrivals.append(Arrival(draw(st.integers(0, 20)), tuple(prompt), output, *who))
    budget, most = draw(st.integers(8, 64)), draw(st.integers(1, 8))
    return arrivals, SimulationSettings(num_pages, page_size, budget, most, "fcfs")


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=100, deadline=None)
@given(workload=workloads())
def test_requests_that_fit_alone_all_finish_with_the_output_they_have_alone(policy, workload):
    arrivals, limits = workload
    limits = SimulationSettings(
        limits.num_pages, limits.page_size, limits.token_budget, limits.max_running, policy
    )
    replay = simulate(arrivals, limits)
    for arrival, output in zip(arrivals, replay.outputs):
        alone = simulate([Arrival(0, arrival.prompt, arrival.max_new_tokens)], limits)
        assert output == alone.outputs[0]
    assert all(sum(n for _, n in step) <= limits.token_budget for step in replay.schedule)
    assert all(len(step) <= limits.max_running for step in replay.schedule)


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_cached_tokens_are_what_earlier_prompts_left(page_size):
    draw = random.Random(0)
    long = tuple(draw.randrange(10**6) for _ in range(11000))
    prompts = [long[:100], long[:10000], long[:10000], long[:1000], long]
    arrivals = [Arrival(i * 100, p, 1) for i, p in enumerate(prompts)]
    replay = simulate(arrivals, SimulationSettings(12000, page_size, 512, 4))
    want = [0, 100, 9999, 999, 10000]
    assert replay.cached_tokens == [n - n % page_size for n in want]


def trie_edges(prompts):
    return len({prompt[:end] for prompt in prompts for end in range(1, len(prompt) + 1)})


def few_shot(seed):
    draw = random.Random(seed)
    prompts = []
    for task in range(6):
        shared = [task] * 30
        for i in range(6):
            prompts.append((*shared, *(draw.randrange(100) for _ in range(8)), 100 + i))
    draw.shuffle(prompts)
    return prompts


@pytest.mark.parametrize("seed", range(3))
def test_longest_prefix_first_computes_each_edge_of_the_trie_once(seed):
    prompts = few_shot(seed)
    arrivals = [Arrival(0, prompt, 1) for prompt in prompts]
    done = {
        policy: simulate(arrivals, SimulationSettings(48, 1, 512, 1, policy)).computed_tokens
        for policy in POLICIES
    }
    assert done["lpm"] == done["dlpm"] == trie_edges(prompts)
    assert done["fcfs"] > 1.5 * done["lpm"]


def test_a_cold_request_is_admitted_after_a_bounded_number_of_passes():
    hot = tuple(range(256))
    arrivals = [Arrival(0, hot, 1), Arrival(1, (7000, 7001), 1)]
    arrivals += [Arrival(1 + i // 2, (*hot, 300 + i), 1) for i in range(100)]
    replay = simulate(arrivals, SimulationSettings(2000, 1, 512, 1, "lpm"))
    assert replay.waited_steps[1] == MAX_PASSES


def test_equal_cold_prompts_are_computed_once_even_in_chunks():
    prompt = tuple(range(400))
    arrivals = [Arrival(0, prompt, 2) for _ in range(8)]
    replay = simulate(arrivals, SimulationSettings(1000, 1, 64, 16))
    assert replay.computed_tokens == 400 + 7 * 1 + 8  # the last prompt token is always computed


def test_a_tenant_with_nothing_running_takes_a_place_of_the_busiest():
    many = [Arrival(0, (9, i), 50, "rollouts") for i in range(20)]
    one = [Arrival(10, tuple(range(100, 120)), 2, "chat")]
    limits = SimulationSettings(100, 16, 64, 4)
    waited = {
        policy: simulate(many + one, replace(limits, policy=policy)).waited_steps[-1]
        for policy in ("lpm", "vtc", "dlpm")
    }
    assert waited["dlpm"] == 0
    assert waited["vtc"] > 30 and waited["lpm"] > 100


def test_a_much_higher_priority_takes_the_place_of_a_running_one():
    low = [Arrival(0, (9, i), 50) for i in range(3)]
    limits = SimulationSettings(100, 16, 64, 2, "priority")
    for priority, waits in ((10, 0), (9, 40)):
        replay = simulate([*low, Arrival(10, (7, 7), 2, priority=priority)], limits)
        assert replay.waited_steps[-1] == waits
        assert replay.preemptions == (priority == 10)


def test_two_tenants_with_prefixes_of_their_own_keep_locality_within_a_quantum():
    """Each has prompts of several families; in turn by the least served, families mix."""
    draw = random.Random(0)
    arrivals = []
    for i in range(200):
        tenant, family = "ab"[i % 2], draw.randrange(8)
        prompt = (*([ord(tenant), family] * 64), *(draw.randrange(1000) for _ in range(8)))
        arrivals.append(Arrival(0, prompt, 4, tenant))
    limits = SimulationSettings(40, 16, 512, 4)
    done = {
        policy: simulate(arrivals, replace(limits, policy=policy, quantum=2000)).computed_tokens
        for policy in ("vtc", "dlpm", "lpm")
    }
    assert done["dlpm"] < 1.25 * done["lpm"]
    assert done["vtc"] > 1.5 * done["dlpm"]
