"""However a request ends, its pages come back, others go on, and nobody waits for ever."""

import asyncio
import threading
import time

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.testing import until
from evolute.types import (
    BackendError,
    ConfigError,
    GenerateRequest,
    OutOfCapacity,
    RequestError,
    SamplingParams,
)

TINY = load_model("tiny")
ENDLESS = SamplingParams(temperature=0, max_new_tokens=1500, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_new_tokens=8, ignore_eos=True)
PROMPT = tuple(range(50))


@pytest.fixture(params=["native", "torch"])
def engine(request):
    settings = {"executor": request.param, "page_size": 4, "memory_mb": 4, "num_threads": 1}
    with Engine(TINY, token_budget=32, **settings) as engine:
        yield engine


@pytest.fixture
def fast_engine():
    with Engine(TINY, page_size=4, memory_mb=4, token_budget=256, num_threads=1) as engine:
        yield engine


def is_empty(engine):
    """Nothing is in flight and no page is lost; drafts and listeners are gone."""
    engine.check()
    stats = engine.stats()
    loop = engine._loop
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.free_pages + stats.cached_pages == stats.num_pages
    assert not (engine._core._drafts or loop._listeners or loop._by_request)
    assert not (engine._core.placement._pinned or engine._core.placement.cache.num_pinned)
    return True


def in_background(job):
    """Run `job` in a thread; returns a function that waits for its result or exception."""
    box = []

    def run():
        try:
            box.append(job())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait():
        thread.join(timeout=20)
        assert box, "it still waits"
        return box[0]

    return wait


# -- abort ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", ["waiting", "prompt", "decoding", "preempted", "paused", "one-of-n-done"]
)
def test_abort_in_every_state_gives_everything_back(engine, state):
    core = engine._core
    n = 3 if state == "one-of-n-done" else 1
    sampling = SamplingParams(temperature=0, max_new_tokens=900, ignore_eos=True, n=n)
    one = GenerateRequest(tuple(i % 256 for i in range(400)), sampling, id="it")

    def reached():
        mine = [s for s in core._drafts if core._drafts[s].request.id == "it"]
        if not mine:
            return False
        computed, generated = mine[0].num_computed, mine[0].num_generated
        return {
            "waiting": True,
            "prompt": 0 < computed < 400 and generated == 0,
            "decoding": generated > 3,
            "preempted": mine[0] not in core.running and generated > 3,
            "paused": generated > 3,
            "one-of-n-done": len(mine) == 2,
        }[state]

    step = core.step

    def stopping():  # on the engine's thread, before each step
        if state == "preempted" and core.running and core.running[0].num_generated > 3:
            core._preempt(core.running[0])
        if state == "one-of-n-done" and len(core._drafts) == 3 and core.running:
            first = core._drafts[core.running[0]]
            if first.sequence.num_generated > 3:
                engine._loop.abort([first])
        if reached():
            engine._loop.is_paused = True
            return []
        return step()

    core.step = stopping
    engine.pause()
    outputs = in_background(lambda: asyncio.run(engine.agenerate(one)))
    until(lambda: engine.stats().waiting == n)
    engine.resume()
    until(lambda: engine._loop.is_paused and reached())
    if state != "paused":
        core.step = step
        engine._loop.call(lambda: (engine.abort("it"), setattr(engine._loop, "is_paused", False)))
    else:
        engine.abort("it")
    engine.abort("it")
    engine.abort("nobody")
    found = outputs()
    assert [o.finish_reason for o in found] == ["abort"] * n
    for output in found:
        assert len(output.logprobs) == len(output.token_ids)
        assert output.text == engine.tokenizer.decode(output.token_ids, skip_special_tokens=True)
    core.step = step
    engine.resume()
    assert is_empty(engine)
    assert engine.generate([PROMPT], SHORT)[0].finish_reason == "length"


def test_leaving_a_stream_or_cancelling_aborts(engine):
    async def leave():
        async for _ in engine.stream(GenerateRequest(PROMPT, ENDLESS)):
            break

    async def cancel():
        job = asyncio.ensure_future(engine.agenerate(GenerateRequest(PROMPT, ENDLESS)))
        while not (await asyncio.to_thread(engine.stats)).running:
            await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    for work in (leave, cancel):
        asyncio.run(work())
        until(lambda: engine.stats().running == 0)
        assert is_empty(engine)


def test_a_second_request_of_the_same_id_is_refused_and_the_first_goes_on(engine):
    async def both():
        first = asyncio.ensure_future(engine.agenerate(GenerateRequest(PROMPT, SHORT, id="x")))
        await asyncio.sleep(0.05)
        with pytest.raises(RequestError, match="ids are unique"):
            async for _ in engine.stream(GenerateRequest(PROMPT, SHORT, id="x")):
                pass
        return await first

    engine.pause()
    threading.Timer(0.2, engine.resume).start()
    assert asyncio.run(both())[0].finish_reason == "length"


def test_a_request_whose_event_loop_is_gone_is_aborted(engine):
    loop = asyncio.new_event_loop()
    stream = engine.stream(GenerateRequest(PROMPT, ENDLESS))
    loop.run_until_complete(anext(stream))
    loop.close()
    until(lambda: engine.stats().running == 0)
    assert is_empty(engine)


# -- faults ----------------------------------------------------------------------


def fault_for(engine, token):
    """Make the executor fail on any batch that holds `token`."""
    forward = engine._core.executor.forward

    def failing(batch):
        if token in batch.token_ids:
            raise RuntimeError("planted")
        return forward(batch)

    engine._core.executor.forward = failing


def test_a_step_that_fails_costs_only_the_guilty_request(engine):
    good = tuple(range(30))
    alone = engine.generate([good], SHORT)[0]
    engine.flush_cache()
    token = next(token for token in range(100, 200) if token not in alone.token_ids)
    bad = (*range(20), token)
    fault_for(engine, token)
    found = engine.generate([good, bad, good], SHORT)
    assert [o.finish_reason for o in found] == ["length", "error", "length"]
    assert found[1].error == "RuntimeError: planted"
    assert found[0].token_ids == found[2].token_ids == alone.token_ids
    assert found[0].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert is_empty(engine)


@pytest.mark.parametrize("place", ["sampler", "text", "logits"])
def test_an_output_that_fails_costs_only_itself(engine, place):
    core = engine._core
    choose = core._sampler.choose

    def choosing(logits, indices, rows):
        bad = [row.prompt[0] == 99 for row in rows]
        if place == "logits":
            logits = logits.copy()
            logits[[i for i, is_bad in zip(indices, bad) if is_bad]] = float("nan")
        chosen = choose(logits, indices, rows)
        return [None if place == "sampler" and b else c for c, b in zip(chosen, bad)]

    add = core._draft

    def drafting(*args):
        draft = add(*args)
        if place == "text" and draft.request.prompt[0] == 99:
            draft.text_stream.push = lambda token: 1 / 0
        return draft

    core._sampler.choose, core._draft = choosing, drafting
    found = engine.generate([PROMPT, (99, *PROMPT), PROMPT], SHORT)
    assert [o.finish_reason for o in found] == ["length", "error", "length"]
    assert found[1].error
    assert is_empty(engine)


def test_a_fault_of_planning_ends_what_runs_and_the_engine_goes_on(engine):
    admit, faults = engine._core.placement.admit, [RuntimeError("planted")]

    def failing(sequence):
        if faults:
            raise faults.pop()
        return admit(sequence)

    engine._core.placement.admit = failing
    assert engine.generate([PROMPT], SHORT)[0].error == "RuntimeError: planted"
    assert engine.generate([PROMPT], SHORT)[0].finish_reason == "length"
    assert is_empty(engine)


def test_when_the_thread_dies_everybody_is_told_at_once(engine):
    def die():
        raise SystemError("planted")

    async def stream():
        return [d async for d in engine.stream(GenerateRequest(PROMPT, ENDLESS))][-1].output

    waiting = [
        in_background(lambda: engine.generate([PROMPT], ENDLESS)[0]),
        in_background(lambda: asyncio.run(stream())),
        in_background(lambda: asyncio.run(engine.agenerate(GenerateRequest(PROMPT, ENDLESS)))[0]),
    ]
    until(lambda: engine.stats().running == 3)
    core = engine._core
    core.step = core.fail_running = core.abandon = lambda *_: die()
    for wait in waiting:
        output = wait()
        assert output.finish_reason == "error" and "planted" in output.error
    until(lambda: not engine.is_alive)
    with pytest.raises(BackendError, match=r"planted.*start it anew"):
        engine.stats()
    with pytest.raises(BackendError):
        engine.generate([PROMPT], SHORT)
    with pytest.raises(BackendError):
        asyncio.run(stream())
    with pytest.raises(BackendError):
        asyncio.run(engine.agenerate(GenerateRequest(PROMPT, SHORT)))


@pytest.mark.parametrize("is_paused", [False, True])
def test_close_ends_what_runs_and_refuses_the_rest(engine, is_paused):
    output = in_background(lambda: engine.generate([PROMPT] * 3, ENDLESS))
    until(lambda: engine.stats().running == 3)  # all three are in, not only the first
    if is_paused:
        engine.pause()
    engine.close()
    engine.close()
    assert [o.finish_reason for o in output()] == ["abort"] * 3
    for call in (engine.stats, engine.pause, lambda: engine.generate([PROMPT], SHORT)):
        with pytest.raises(RequestError, match="closed"):
            call()
    with pytest.raises(RequestError, match="closed"):
        asyncio.run(engine.agenerate(GenerateRequest(PROMPT, SHORT)))


def test_a_request_that_comes_while_the_engine_closes_is_answered(engine):
    closing, abort = threading.Event(), engine._core.abort

    def slow_abort(drafts):
        closing.set()
        time.sleep(0.5)
        return abort(drafts)

    engine._core.abort = slow_abort
    closed = in_background(engine.close)
    assert closing.wait(10)
    with pytest.raises(RequestError, match="closed"):
        engine.generate([PROMPT], SHORT)
    closed()


# -- load ---------------------------------------------------------------------------


def test_sixty_four_samples_and_a_thousand_requests_come_to_an_end(fast_engine):
    engine = fast_engine
    wide = SamplingParams(n=64, max_new_tokens=3, seed=1, ignore_eos=True)
    outputs = engine.generate([PROMPT], wide)
    assert [o.index for o in outputs] == list(range(64))
    assert len({o.token_ids for o in outputs}) > 32
    computed = engine.stats().counts.computed_tokens
    assert computed < 50 + 64 * (2 + 2 + 3)  # the prompt once, its last page and outputs each
    many = engine.generate([(i % 250, 1, 2) for i in range(1000)], SHORT)
    assert len(many) == 1000 and {len(o.token_ids) for o in many} == {8}
    assert is_empty(engine)


def test_more_prompts_than_may_wait_are_sent_as_others_finish(fast_engine):
    engine = fast_engine
    engine.apply_settings(max_waiting=5)
    outputs = engine.generate([(i, 1, 2) for i in range(40)], SHORT)
    assert [o.finish_reason for o in outputs] == ["length"] * 40
    with pytest.raises(RequestError, match="n is 6"):
        engine.generate([PROMPT], SamplingParams(n=6))

    async def flood():
        jobs = [engine.agenerate(GenerateRequest(PROMPT, SHORT)) for _ in range(40)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    engine.pause()
    threading.Timer(0.3, engine.resume).start()
    found = asyncio.run(flood())
    assert sum(isinstance(one, OutOfCapacity) for one in found) == 35
    assert is_empty(engine)


def test_a_step_matches_only_prompts_for_which_something_has_changed(fast_engine):
    engine = fast_engine
    core = engine._core
    pool = core.placement.pool
    engine._loop._inspect = lambda: None  # it would take back what is held
    held = pool.allocate(pool.num_free - 40)  # room for three: the others wait for pages
    cache, match, matches, per_step = core.placement.cache, core.placement.cache.match, [0], []

    def counted(*args):
        matches[0] += 1
        return match(*args)

    step = core.step

    def watched():
        matches[0] = 0
        events = step()
        per_step.append(matches[0])
        return events

    cache.match, core.step = counted, watched
    sampling = SamplingParams(temperature=0, max_new_tokens=20, ignore_eos=True)
    engine.generate([(i, *range(20)) for i in range(40)], sampling)
    assert sum(count == 0 for count in per_step) > 0.4 * len(per_step)
    assert max(per_step) < 2 * 40
    pool.free(held)
    assert is_empty(engine)


# -- bad settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"logit_bias": {259: 1.0}}, "259 in logit_bias is out of vocabulary"),
        ({"logit_bias": {-1: 1.0}}, "-1 in logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "use a finite number"),
        ({"stop_token_ids": (400,)}, "400 in stop_token_ids is out of vocabulary"),
        ({"regex": "("}, "regex cannot be compiled"),
    ],
    ids=str,
)
def test_what_would_fail_in_a_step_is_refused_at_the_door(engine, sampling, words):
    with pytest.raises(RequestError, match=words):
        engine.generate([PROMPT], SamplingParams(**sampling))
    for prompt in [(), (259,), (-1,)]:
        with pytest.raises(RequestError):
            engine.generate([list(prompt)] if prompt else [[]], SHORT)
    assert engine.generate([]) == []
    assert is_empty(engine)


def test_live_settings_are_checked_like_those_at_the_start(engine):
    with pytest.raises(ConfigError, match="Did you mean 'max_running'"):
        engine.apply_settings(max_runing=3)
    with pytest.raises(ConfigError, match="policy"):
        engine.apply_settings(policy="lpn")
    with pytest.raises(ConfigError, match="at least 1"):
        engine.apply_settings(token_budget=0)
    with pytest.raises(RequestError, match="cannot change while running"):
        engine.apply_settings(page_size=8)
    assert engine.apply_settings(num_threads=0).num_threads >= 1
    assert engine.apply_settings(policy="fcfs").policy == "fcfs"


def test_min_new_tokens_gives_way_to_a_grammar_that_allows_only_the_end(engine):
    # 'b' is a stop token here, and after "a" the grammar allows nothing else
    sampling = SamplingParams(regex="ab", stop_token_ids=(98,), min_new_tokens=5, max_new_tokens=9)
    (output,) = engine.generate([PROMPT], sampling)
    assert (output.token_ids, output.finish_reason) == ((97, 98), "stop")
