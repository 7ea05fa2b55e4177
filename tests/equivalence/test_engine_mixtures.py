"""Everything a request can ask for, on both executors: the answer is the one it gets alone."""

import asyncio
import dataclasses
import functools
import random

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.types import GenerateRequest, SamplingParams

TINY = load_model("tiny")
EXECUTORS = ["native", "torch"]
LONG = SamplingParams(temperature=0, max_new_tokens=24, ignore_eos=True)


def lora(seed):
    weights = LoraWeights.init(LoraConfig(rank=4 + 4 * seed), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
    return weights


LORAS = {name: lora(seed) for seed, name in enumerate(["ann", "bob"])}


def prompt(seed, size):
    draw = random.Random(seed)
    return tuple([7] * 20 + [draw.randrange(256) for _ in range(size)])


def request(seed, size, adapter=None, **sampling):
    given = {"max_new_tokens": 20, "temperature": 0.9, "seed": seed, "ignore_eos": True} | sampling
    return GenerateRequest(prompt(seed, size), SamplingParams(**given), adapter)


REQUESTS = [
    request(0, 9, temperature=0, top_logprobs=3),
    request(1, 30, n=3),
    request(2, 17, top_p=0.8, top_k=40, min_p=0.01, adapter="ann"),
    request(3, 12, repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=-0.5, n=2),
    request(4, 25, stop=("z", "V1"), max_new_tokens=60, adapter="bob"),
    request(5, 8, regex="[a-f]{4,9}X?", ignore_eos=False, n=2, adapter="ann"),
    request(6, 40, prompt_logprobs=True, temperature=0.7),
    request(7, 40, prompt_logprobs=True, max_new_tokens=0),
    request(8, 11, logit_bias={65: 9.0, 66: 8.0}, min_new_tokens=5, ignore_eos=False),
    request(1, 30, adapter="bob", temperature=0),  # the prompt of the second, on other weights
]


def serve(engine, requests):
    """All begin in the same step, so that what is scheduled does not depend on the clock."""

    async def everything():
        fresh = [dataclasses.replace(r, id=f"{i}-{id(r)}") for i, r in enumerate(requests)]
        engine.pause()
        sent = [asyncio.create_task(engine.agenerate(r)) for r in fresh]
        while engine.stats().waiting < sum(r.sampling.n for r in fresh):
            await asyncio.sleep(0.001)
        engine.resume()
        return await asyncio.gather(*sent)

    return asyncio.run(everything())


def engine_of(executor, **settings):
    engine = Engine(
        TINY,
        **({"executor": executor, "page_size": 4, "memory_mb": 4, "num_threads": 1} | settings),
    )
    for name, weights in LORAS.items():
        engine.load_adapter(name, weights)
    return engine


@functools.cache
def alone(executor):
    with engine_of(executor, prefix_cache=False) as engine:
        return [serve(engine, [one])[0] for one in REQUESTS]


def assert_same(groups, expected):
    for group, wanted in zip(groups, expected, strict=True):
        for one, two in zip(group, wanted, strict=True):
            assert one.token_ids == two.token_ids
            assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
            assert one.matched_stop == two.matched_stop
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
            assert len(one.logprobs) == len(one.token_ids)
            assert one.prompt_logprobs[1:] == pytest.approx(two.prompt_logprobs[1:], abs=1e-4)
            assert [[t.token_id for t in at] for at in one.top_logprobs] == [
                [t.token_id for t in at] for at in two.top_logprobs
            ]


def test_the_native_answers_are_the_plain_ones():
    assert_same(alone("native"), alone("torch"))
    reasons = {o.finish_reason for group in alone("torch") for o in group}
    assert {"stop", "length"} <= reasons
    assert alone("torch")[4][0].matched_stop == "z"


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    "settings",
    [
        {"page_size": 1},
        {"page_size": 4},
        {"page_size": 16},
        {"page_size": 1, "token_budget": 5},
        {"page_size": 16, "token_budget": 11, "max_running": 3},
        {"prefix_cache": False},
        {"policy": "fcfs", "max_running": 1},
    ],
    ids=str,
)
def test_in_any_company_and_any_cut_the_answer_is_the_one_alone(executor, settings):
    with engine_of(executor, **settings) as engine:
        assert_same(serve(engine, REQUESTS), alone(executor))
        engine.check()
        assert_same(serve(engine, REQUESTS), alone(executor))  # now out of the cache
        cached = engine.stats().counts.cached_tokens
        assert (cached > 0) == settings.get("prefix_cache", True)
        engine.check()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_preempted_is_uninterrupted(executor, page_size):
    with engine_of(executor, page_size=page_size) as engine:
        pool = engine._core.placement.pool
        engine._loop._inspect = lambda: None  # it would take back what is held
        held = pool.allocate(pool.num_free - 272 // page_size)
        assert_same(serve(engine, REQUESTS), alone(executor))
        assert engine.stats().counts.preemptions > 0
        pool.free(held)
        engine.check()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_cached_tokens_are_all_but_the_last_rounded_down_to_pages(executor, page_size):
    long = tuple((7 * i) % 251 for i in range(700))
    with engine_of(executor, page_size=page_size) as engine:

        def cached(tokens, **sampling):
            one = GenerateRequest(tokens, SamplingParams(max_new_tokens=1, **sampling))
            (outputs,) = serve(engine, [one])
            return [output.cached_tokens for output in outputs]

        def down(count):
            return count - count % page_size

        assert cached(long[:100]) == [0]
        assert cached(long[:600]) == [down(100)]
        assert cached(long[:600]) == [down(599)]
        assert cached(long[:50]) == [down(49)]
        assert cached(long) == [down(600)]
        assert cached(long[:600], prompt_logprobs=True) == [0]  # every token's logits are needed
        assert cached((5, *long[:299]), n=3) == [0, down(299), down(299)]
        engine.flush_cache()
        assert cached(long[:600]) == [0]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_pausing_in_every_step_changes_nothing(executor):
    with engine_of(executor, token_budget=16) as engine:

        async def stuttering():
            job = asyncio.ensure_future(
                asyncio.gather(*[engine.agenerate(dataclasses.replace(r)) for r in REQUESTS])
            )
            while not job.done():
                await asyncio.to_thread(engine.pause)
                before = (await asyncio.to_thread(engine.stats)).counts.steps
                await asyncio.sleep(0.002)
                assert (await asyncio.to_thread(engine.stats)).counts.steps == before
                await asyncio.to_thread(engine.resume)
                await asyncio.sleep(0.002)
            return await job

        assert_same(asyncio.run(stuttering()), alone(executor))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_stream_is_the_whole_in_pieces(executor):
    async def collect(engine, one):
        texts, tokens, logprobs, outputs = {}, {}, {}, {}
        async for delta in engine.stream(dataclasses.replace(one, id="s")):
            texts[delta.index] = texts.get(delta.index, "") + delta.text
            tokens[delta.index] = (*tokens.get(delta.index, ()), *delta.token_ids)
            logprobs[delta.index] = (*logprobs.get(delta.index, ()), *delta.logprobs)
            if delta.output:
                outputs[delta.index] = delta.output
        for index, output in outputs.items():
            assert (texts[index], tokens[index]) == (output.text, output.token_ids)
            assert logprobs[index] == output.logprobs
        return [outputs[index] for index in sorted(outputs)]

    with engine_of(executor) as engine:
        groups = [asyncio.run(collect(engine, one)) for one in REQUESTS]
    assert_same(groups, alone(executor))
