"""A look at the engine is of one moment, bounded, adds up, and shows a tenant only its own."""

import asyncio
import random

import pytest

from evolute.engine import Engine
from evolute.engine.counts import Counts
from evolute.engine.memory import RadixCache
from evolute.engine.rates import Rates
from evolute.engine.snapshot import MAX_RECENT, MAX_SHOWN, SECONDS
from evolute.models import LoraConfig, LoraWeights
from evolute.types import GenerateRequest, SamplingParams

LONG = SamplingParams(max_new_tokens=200, temperature=0, ignore_eos=True)


def owned(memory):
    return memory.free + memory.cached + memory.own + memory.adapters


def grown(num_pages=400, seed=3):
    """A cache with many branches, some of them held, and its pages by place."""
    chance, cache, next_page = random.Random(seed), RadixCache(2), 0
    while cache.num_pages < num_pages:
        tokens = [chance.choice([1, 2]) for _ in range(2 * chance.randrange(1, 14))]
        namespace = (chance.choice([None, "a", "b"]), 1, "")
        pages = list(range(next_page, next_page + len(tokens) // 2))
        next_page += len(pages)
        cache.insert(namespace, tokens, pages)
        if chance.random() < 0.1:
            cache.pin(cache.match(namespace, tokens))
    return cache


@pytest.mark.parametrize("count", [1, 7, 64, 10_000])
def test_an_outline_has_the_largest_branches_and_those_above_them(count):
    cache = grown()
    outline = cache.outline(count)
    assert outline.num_pages == cache.num_pages == len(cache.pages())
    assert len(outline.branches) == min(count, outline.num_nodes)
    for place, branch in enumerate(outline.branches):
        assert branch.parent < place
        if branch.parent >= 0:
            above = outline.branches[branch.parent]
            assert above.pages_below > branch.pages_below >= branch.num_pages > 0
            assert above.namespace == branch.namespace and above.users >= branch.users
    everything = sorted((b.pages_below for b in cache.outline(10_000).branches), reverse=True)
    shown = sorted((b.pages_below for b in outline.branches), reverse=True)
    assert shown == everything[:count]


def test_an_outline_of_everything_counts_every_page_once():
    cache = grown()
    branches = cache.outline(10_000).branches
    assert sum(branch.num_pages for branch in branches) == cache.num_pages
    for place, branch in enumerate(branches):
        children = [b for b in branches if b.parent == place]
        assert branch.num_children == len(children)
        assert branch.pages_below == branch.num_pages + sum(b.pages_below for b in children)
    held = sum(branch.num_pages for branch in branches if branch.users)
    assert held == cache.num_pinned > 0


def test_pages_of_dropped_namespaces_that_are_held_are_still_outlined():
    cache = RadixCache(2)
    cache.insert(("a", 1, ""), [1, 2, 3, 4], [0, 1])
    cache.pin(cache.match(("a", 1, ""), [1, 2, 3, 4]))
    cache.drop(lambda namespace: True)
    (branch,) = cache.outline(5).branches
    assert branch.namespace is None and branch.num_pages == 2 and branch.users == 1


def test_rates_fall_into_their_seconds_and_idle_ones_are_zero():
    rates, counts = Rates(), Counts()
    for now, made in ((10.1, 3), (10.9, 2), (13.5, 7)):
        counts.output_tokens += made
        rates.note(now, counts)
    assert [s.output_tokens for s in rates.last(14.2, 5)] == [0, 5, 0, 0, 7]
    assert [s.output_tokens for s in rates.last(13.9, 4)] == [0, 5, 0, 0]  # 13 is not over


def test_memory_adds_up_at_every_look_while_requests_run():
    async def look():
        with Engine("tiny", max_running=3, memory_mb=8, page_size=4) as engine:
            weights = LoraWeights.init(LoraConfig(rank=2), engine.model_config, 1)
            engine.load_adapter("tuned", weights)
            requests = [
                GenerateRequest(
                    (7,) * 20 + (i,), LONG, "tuned" if i % 2 else None, tenant=f"t{i % 3}"
                )
                for i in range(9)
            ]
            tasks = [asyncio.create_task(engine.agenerate(r)) for r in requests]
            maps, shots = [], []
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                maps.append(engine.memory_map())
                shots.append(engine.snapshot())
            await asyncio.gather(*tasks)
            maps.append(engine.memory_map())
            engine.check()
            return maps, shots

    maps, shots = asyncio.run(look())
    assert all(owned(memory) == memory.num_pages for memory in maps)
    assert all(sum(o.num_pages for o in memory.owners) == memory.own for memory in maps)
    assert any(memory.own and memory.pinned and memory.adapters for memory in maps)
    assert maps[-1].own == maps[-1].pinned == 0 < maps[-1].cached
    busy = next(s for s in shots if s.running and s.waiting and s.stats.limit)
    assert busy.num_running == busy.stats.running <= 3 and busy.num_waiting == busy.stats.waiting
    assert {one.where.state for one in busy.running} == {"running"}
    assert all(one.where.why and one.age_s > 0 for one in busy.waiting)
    (adapter,) = busy.adapters
    assert adapter.info.name == "tuned" and adapter.is_paged


def test_a_tenant_is_shown_its_own_and_lists_are_bounded():
    with Engine("tiny", max_running=4, max_waiting=200) as engine:
        for tenant, count in (("alice", MAX_RECENT + 5), ("bob", 2)):
            asyncio.run(many(engine, tenant, count))
        everybody, bob = engine.snapshot(), engine.snapshot("bob")
        assert len(everybody.recent) == MAX_RECENT
        assert {visit.tenant for visit in bob.recent} == {"bob"} and len(bob.recent) == 2
        engine.pause()
        tasks = asyncio.run(waiting(engine, MAX_SHOWN + 3))
        assert tasks == (MAX_SHOWN + 3, MAX_SHOWN, 0)
        assert len(everybody.seconds) == SECONDS


async def many(engine, tenant, count):
    short = SamplingParams(max_new_tokens=1)
    requests = [GenerateRequest((1, 2, i), short, tenant=tenant) for i in range(count)]
    await asyncio.gather(*(engine.agenerate(request) for request in requests))


async def waiting(engine, count):
    """How many wait, how many of them are shown, and how many another tenant sees."""
    short = SamplingParams(max_new_tokens=1)
    tasks = [
        asyncio.create_task(engine.agenerate(GenerateRequest((1, i), short, tenant="alice")))
        for i in range(count)
    ]
    while engine.stats().waiting < count:
        await asyncio.sleep(0.01)
    alice, bob = engine.snapshot("alice"), engine.snapshot("bob")
    engine.resume()
    await asyncio.gather(*tasks)
    return alice.num_waiting, len(alice.waiting), bob.num_waiting
