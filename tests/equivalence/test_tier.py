"""A second tier changes costs, never answers: off, on, forced, spoilt, full, with new weights."""

import asyncio
import errno
import os
import random

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.models.tiny import tiny_weights
from evolute.types import GenerateRequest, SamplingParams

TINY = load_model("tiny")
EXECUTORS = pytest.mark.parametrize("executor", ["native", "torch"])
DRAW = random.Random(0)
# sessions of four turns, each prompt the one before and more; 2,048 tokens of pool, 8,000 in all
SESSIONS = [[DRAW.randrange(256) for _ in range(400)] for _ in range(20)]
ENDS = (130, 210, 301, 400)
GREEDY = SamplingParams(temperature=0, max_new_tokens=4, ignore_eos=True)


def lora(seed):
    weights = LoraWeights.init(LoraConfig(rank=4), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return weights


def engine_of(tmp_path, executor, tier, **settings):
    if tier == "disk":
        settings["tier_dir"] = str(tmp_path)
    if tier != "none":
        settings = {"tier": tier, "tier_mb": 16, "tier_restore": "always"} | settings
    return Engine(TINY, executor=executor, memory_mb=1, num_threads=1, **settings)


def turn(engine, end, sessions=SESSIONS, adapter=None):
    async def all_of_them():
        requests = [GenerateRequest(tuple(one[:end]), GREEDY, adapter) for one in sessions]
        return await asyncio.gather(*[engine.agenerate(one) for one in requests])

    outputs = [output for (output,) in asyncio.run(all_of_them())]
    engine.check()
    return outputs


def answers(engine):
    outputs = [output for end in ENDS for output in turn(engine, end)]
    return [o.token_ids for o in outputs], outputs, engine.stats()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    found = {}
    for executor in ("native", "torch"):
        with engine_of(None, executor, "none") as engine:
            tokens, _, stats = answers(engine)
        assert stats.tier_pages == stats.tier_slots == stats.tier.hits == 0
        assert stats.counts.evicted_pages > 0, "the pool was too large"
        found[executor] = tokens, stats
    return found


@EXECUTORS
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("tier", ["disk", "host"])
def test_copies_back_that_take_several_steps_change_no_answer(
    tmp_path, plain, executor, tier, most
):
    """A step copies back `most` pages, whoever wants them; requests of the step go on beside."""
    copied = [0]
    with engine_of(tmp_path, executor, tier) as engine:
        core = engine._core
        tier_of, more = core.placement.tier, core.placement.restore_more
        tier_of.step_pages = most
        read = tier_of._store.read

        def counted_read(slots, pages, names):
            copied[-1] += len(slots)
            return read(slots, pages, names)

        tier_of._store.read = counted_read
        core.placement.restore_more = lambda: (copied.append(0), more())
        found, _, stats = answers(engine)
    assert found == plain[executor][0]
    assert max(copied) == most and sum(copied) == stats.tier.restored_pages
    assert stats.tier.restored_tokens > 1000 and stats.tier.faults == 0


@EXECUTORS
@pytest.mark.parametrize(
    ("tier", "settings"),
    [
        ("disk", {}),
        ("disk", {"tier_queue_mb": 0}),
        ("disk", {"tier_mb": 1}),
        ("disk", {"tier_restore": "measured"}),
        ("disk", {"page_size": 5, "max_running": 5, "token_budget": 64}),
        ("host", {}),
        ("host", {"policy": "fcfs", "tier_mb": 2}),
    ],
)
def test_answers_are_those_without_it(tmp_path, plain, executor, tier, settings):
    tokens, without = plain[executor]
    with engine_of(tmp_path, executor, tier, **settings) as engine:
        found, outputs, stats = answers(engine)
        files = [p.name for p in tmp_path.glob("*/*")]
    assert found == tokens
    assert stats.tier.faults == stats.counts.repairs == 0
    assert stats.tier.hits > 0 and stats.tier.written_pages > 0 < stats.tier_pages
    if not stats.counts.preemptions:  # who is admitted again is told of the first time only
        assert stats.counts.cached_tokens == sum(o.cached_tokens for o in outputs)
    assert stats.tier.restored_tokens <= stats.counts.cached_tokens
    if not settings:
        assert stats.counts.computed_tokens < 0.6 * without.counts.computed_tokens
    assert files == (["slots"] if tier == "disk" else [])
    assert list(tmp_path.iterdir()) == [], "something was left behind"


@EXECUTORS
def test_never_restoring_computes_what_the_tier_holds(tmp_path, plain, executor):
    tokens, without = plain[executor]
    with engine_of(tmp_path, executor, "disk", tier_restore="never") as engine:
        found, _, stats = answers(engine)
    assert found == tokens
    assert stats.tier.hits == stats.tier.restored_tokens == 0 < stats.tier.declined
    assert stats.counts.computed_tokens > 0.8 * without.counts.computed_tokens


def slots_file(tmp_path):
    (path,) = tmp_path.glob("*/slots")
    return path


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_spoilt_slots_are_computed_anew(tmp_path, plain, how):
    with engine_of(tmp_path, "native", "disk", tier_queue_mb=0) as engine:
        found = [o.token_ids for end in ENDS[:2] for o in turn(engine, end)]
        path = slots_file(tmp_path)
        with open(path, "r+b") as file:
            size = path.stat().st_size
            file.truncate(0)
            if how == "overwritten":
                file.write(os.urandom(size))
        found += [o.token_ids for end in ENDS[2:] for o in turn(engine, end)]
        stats = engine.stats()
    assert found == plain["native"][0]
    assert stats.tier.faults > 0 and stats.counts.repairs == 0
    assert stats.tier_slots > 0, "bad slots are no reason to give up"


@pytest.mark.parametrize("queue_mb", [0, 8])
def test_a_full_disk_switches_the_tier_off(tmp_path, plain, monkeypatch, caplog, queue_mb):
    with engine_of(tmp_path, "native", "disk", tier_queue_mb=queue_mb) as engine:
        found = [o.token_ids for end in ENDS[:2] for o in turn(engine, end)]

        def fails(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", fails)
        found += [o.token_ids for end in ENDS[2:] for o in turn(engine, end)]
        stats = engine.stats()
    assert found == plain["native"][0]
    assert stats.tier_slots == stats.tier_pages == 0 < stats.tier.faults
    assert caplog.text.count("the second tier is switched off") == 1
    assert "No space left" in caplog.text


@EXECUTORS
def test_pages_of_old_weights_never_come_back(tmp_path, executor):
    """Also when the new ones come under the number of the old ones."""
    with engine_of(tmp_path, executor, "disk") as engine:
        engine.load_adapter("a", lora(1), version=1)
        for name in ("a", None):
            turn(engine, ENDS[1], adapter=name)
        assert engine.stats().tier_pages > 0
        engine.load_adapter("a", lora(2), version=1)
        engine.load_weights(tiny_weights(TINY.config, seed=5), version=0)
        assert engine.stats().tier_pages == 0
        found = [turn(engine, ENDS[2], adapter=name) for name in ("a", None)]
    with engine_of(tmp_path, executor, "none") as engine:
        engine.load_weights(tiny_weights(TINY.config, seed=5), version=0)
        engine.load_adapter("a", lora(2), version=1)
        wanted = [turn(engine, ENDS[2], adapter=name) for name in ("a", None)]
    for one, two in zip(found, wanted):
        assert [o.token_ids for o in one] == [o.token_ids for o in two]


def test_an_update_while_pages_are_on_their_way_drops_them(tmp_path):
    with engine_of(tmp_path, "native", "disk") as engine:
        for round in range(4):
            engine.load_adapter("a", lora(round), version=1)
            found = turn(engine, ENDS[0], SESSIONS[:18], "a")
        assert engine.stats().tier.written_pages > 0
    with engine_of(tmp_path, "native", "none") as engine:
        engine.load_adapter("a", lora(3), version=1)
        wanted = turn(engine, ENDS[0], SESSIONS[:18], "a")
    assert [o.token_ids for o in found] == [o.token_ids for o in wanted]


def test_a_flush_empties_the_tier(tmp_path):
    with engine_of(tmp_path, "native", "disk") as engine:
        turn(engine, ENDS[0])
        assert engine.stats().tier_pages > 0
        engine.flush_cache()
        stats = engine.stats()
        assert stats.tier_pages == stats.cached_pages == 0
        assert turn(engine, ENDS[0], SESSIONS[:1])[0].cached_tokens == 0


def test_a_salt_keeps_others_out(tmp_path):
    with engine_of(tmp_path, "native", "disk") as engine:
        turn(engine, ENDS[0])
        request = GenerateRequest(tuple(SESSIONS[0][: ENDS[0]]), GREEDY, cache_salt="mine")
        (output,) = asyncio.run(engine.agenerate(request))
        assert output.cached_tokens == 0


def test_wrong_sums_of_the_tier_are_repaired(tmp_path, plain, monkeypatch):
    with engine_of(tmp_path, "native", "disk") as engine:
        found = [o.token_ids for end in ENDS[:2] for o in turn(engine, end)]
        cached = engine.stats().cached_pages
        tier = engine._core.placement.tier
        engine._loop.call(lambda: tier._free.append(0))
        engine._loop.call(lambda: None)
        stats = engine.stats()
        assert stats.counts.repairs == 1 and stats.tier_pages == 0 < tier.num_slots
        assert stats.cached_pages == cached, "the pool's pages are still to be trusted"
        found += [o.token_ids for end in ENDS[2:] for o in turn(engine, end)]
        assert engine.stats().tier_pages > 0
        monkeypatch.setattr("evolute.engine.loop.WALK_EVERY_S", 0.0)
        key = next(iter(tier._slots))
        engine._loop.call(
            lambda: tier._slots.update({key: tier._slots[next(reversed(tier._slots))]})
        )
        turn(engine, ENDS[0], SESSIONS[:1])
        engine._loop.call(lambda: None)
        assert engine.stats().counts.repairs == 2, "one slot with two names is found by the walk"
    assert found == plain["native"][0]
