"""Accounts of pages that went wrong are found when the engine is idle, put right, and told."""

import logging
import threading

import pytest

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.types import FinishReason, GenerateRequest, SamplingParams

TINY = load_model("tiny")
GREEDY = SamplingParams(temperature=0, max_new_tokens=6, ignore_eos=True)
PROMPT = list(range(40))


@pytest.fixture
def engine():
    with Engine(TINY, page_size=4, memory_mb=4, num_threads=1) as engine:
        weights = LoraWeights.init(LoraConfig(rank=4), TINY.config, 0)
        for _, b in weights.tensors.values():
            b.fill_(0.05)
        engine.load_adapter("one", weights)
        engine.generate(PROMPT, GREEDY)
        engine.generate(PROMPT, GREEDY, adapter="one")  # stays resident
        yield engine


def loses_a_page(placement):
    placement.pool.allocate(1)


def frees_a_cached_page(placement):
    placement.pool.free(placement.cache.pages()[:1])


def frees_an_adapters_page(placement):
    placement.pool.free(placement.adapters.pages()[:1])


def miscounts_the_cache(placement):
    placement.cache.num_pages -= 1


def forgets_a_pin(placement):
    (namespace,) = [name for name in placement.cache._roots if name[0] is None]
    placement.cache.pin(placement.cache.match(namespace, PROMPT))


def forgets_an_adapters_user(placement):
    (adapter,) = placement.adapters.sizes
    placement.adapters.hold(adapter)


SUMS = [
    loses_a_page,
    frees_a_cached_page,
    frees_an_adapters_page,
    miscounts_the_cache,
    forgets_a_pin,
    forgets_an_adapters_user,
]


def answers(engine):
    return [
        engine.generate(PROMPT, GREEDY, adapter=name)[0].token_ids for name in (None, "one", None)
    ]


def after_a_command(engine):
    """The thread inspects before it waits again, so the second command comes after that."""
    engine._loop.call(lambda: None)
    return engine.stats().counts.repairs


@pytest.mark.parametrize("corrupt", SUMS)
def test_a_fault_is_repaired_counted_and_told(engine, corrupt, caplog):
    before = answers(engine)
    with caplog.at_level(logging.ERROR, "evolute.engine.core"):
        engine._loop.call(lambda: corrupt(engine._core.placement))
        assert after_a_command(engine) == 1
    assert "accounts of pages" in caplog.text
    stats = engine.stats()
    assert stats.free_pages + stats.cached_pages + stats.adapter_pages == stats.num_pages
    engine.check()
    assert answers(engine) == before
    engine.check()
    assert after_a_command(engine) == 1, "the repair lasts"


def test_lost_pages_cost_no_cached_one(engine):
    cached = engine.stats().cached_pages
    engine._loop.call(lambda: engine._core.placement.pool.allocate(7))
    assert after_a_command(engine) == 1
    assert engine.stats().cached_pages == cached > 0
    engine.generate(PROMPT, GREEDY)
    assert engine.stats().counts.cached_tokens > 0


def test_a_page_with_two_owners_is_not_believed(engine):
    """Its bytes may be another's, so what the cache says of it must not be read."""
    engine._loop.call(lambda: frees_a_cached_page(engine._core.placement))
    assert after_a_command(engine) == 1
    assert engine.stats().cached_pages == engine.stats().adapter_pages == 0


def test_sums_that_cancel_out_are_found_by_the_walk(engine, monkeypatch):
    def corrupt():
        loses_a_page(engine._core.placement)
        frees_a_cached_page(engine._core.placement)

    engine._loop.call(corrupt)
    assert after_a_command(engine) == 0, "the sums are right"
    monkeypatch.setattr("evolute.engine.loop.WALK_EVERY_S", 0.0)
    assert after_a_command(engine) == 1
    engine.check()


def test_a_lost_request_ends_with_an_error(engine):
    """It neither runs nor waits; without this its client would wait for ever."""
    told, heard = [], threading.Event()

    def listen(delta):
        if delta.output is not None:
            told.append(delta.output)
            heard.set()

    def lose():
        (draft,) = engine._loop.add(GenerateRequest(tuple(PROMPT), GREEDY), None, listen)
        engine._core.queue.discard(draft.sequence)

    engine._loop.call(lose)
    assert heard.wait(20)
    assert told[0].finish_reason is FinishReason.ERROR
    assert engine.stats().counts.repairs == 1
    assert len(answers(engine)) == 3
    engine.check()


def test_an_inspection_that_fails_ends_nothing(engine, monkeypatch):
    def fail(**_):
        raise ZeroDivisionError

    before = answers(engine)
    monkeypatch.setattr(engine._core, "inspect", fail)
    assert answers(engine) == before


def test_a_sound_engine_is_never_repaired(engine, monkeypatch):
    monkeypatch.setattr("evolute.engine.loop.WALK_EVERY_S", 0.0)
    for round in range(10):
        engine.generate([*PROMPT, round], GREEDY, adapter="one" if round % 2 else None)
        if round % 4 == 3:
            engine.flush_cache()
    assert after_a_command(engine) == 0


def test_an_idle_engine_gives_free_memory_back_once_for_what_it_did(engine, monkeypatch):
    given = []
    monkeypatch.setattr("evolute.engine.loop.give_back_memory", lambda: given.append(1))
    answers(engine)
    after_a_command(engine)
    assert not given  # not in every pause between two requests
    monkeypatch.setattr("evolute.engine.loop.WALK_EVERY_S", 0.0)
    for _ in range(3):
        after_a_command(engine)
    assert len(given) == 1
