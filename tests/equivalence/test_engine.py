"""Two ways to the same answer: every saving of the engine changes cost and nothing else."""

import dataclasses
import random

import pytest

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.types import SamplingParams

GREEDY = SamplingParams(temperature=0, max_new_tokens=24, ignore_eos=True)
TINY = load_model("tiny")


def prompts(count=6, low=5, high=60, seed=0):
    source = random.Random(seed)
    shared = [source.randrange(256) for _ in range(20)]
    sizes = [source.randint(low, high) for _ in range(count)]
    return [[*shared, *(source.randrange(256) for _ in range(n))] for n in sizes]


def run(items, sampling=GREEDY, **settings):
    with Engine(TINY, page_size=settings.pop("page_size", 4), **settings) as engine:
        outputs = engine.generate(items, sampling)
        engine.check()
        return outputs, engine.stats().counts


def assert_same(first, second):
    assert [o.token_ids for o in first] == [o.token_ids for o in second]
    for one, two in zip(first, second):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


ALONE = [run([p], prefix_cache=False)[0][0] for p in prompts()]


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix_cache": False},
        {},
        {"page_size": 1},
        {"page_size": 16},
        {"token_budget": 7},
        {"max_running": 2},
        {"policy": "fcfs", "token_budget": 16},
    ],
    ids=str,
)
def test_batched_cached_and_chunked_equal_alone(settings):
    assert_same(run(prompts(), **settings)[0], ALONE)


def test_preempted_equals_uninterrupted():
    items = prompts(12, seed=3)
    alone = [run([p], prefix_cache=False)[0][0] for p in items]
    with Engine(TINY, page_size=4, memory_mb=1) as engine:
        core = engine._core
        engine._loop._inspect = lambda: None  # it would take back what is held
        held = core.placement.pool.allocate(core.placement.pool.num_free - 75)
        outputs = engine.generate(items, GREEDY)
        assert engine.stats().counts.preemptions > 0
        core.placement.pool.free(held)
        engine.check()
    assert_same(outputs, alone)


def test_cached_tokens_count_what_was_reused():
    prompt = [i % 251 for i in range(1000)]
    with Engine(TINY, page_size=1, context=2000) as engine:

        def cached(tokens):
            return engine.generate([tokens], SamplingParams(max_new_tokens=1))[0].cached_tokens

        assert cached(prompt[:100]) == 0
        assert cached(prompt) == 100
        assert cached(prompt) == 999
        assert cached(prompt[:500]) == 499
        assert cached([*prompt, *prompt[:50]]) == 1000


def adapters(count):
    found = []
    for seed in range(count):
        lora = LoraWeights.init(LoraConfig(rank=4 + 4 * seed), TINY.config, seed)
        for number, (_, b) in enumerate(lora.tensors.values()):
            b.normal_(std=0.05 + 0.001 * number)
        found.append(lora)
    return found


def merged(lora):
    tensors = dict(TINY.weights)
    for (layer, module), (a, b) in lora.tensors.items():
        part = "self_attn" if module[0] in "qkvo" else "mlp"
        tensors[f"layers.{layer}.{part}.{module}.weight"] = (
            TINY.weights.dense(f"layers.{layer}.{part}.{module}.weight") + lora.scale * b @ a
        )
    return dataclasses.replace(TINY, weights=type(TINY.weights)(tensors))


def test_mixed_adapters_in_one_batch_equal_merged_weights():
    import asyncio

    from evolute.types import GenerateRequest

    loras, items = adapters(3), prompts(4)
    with Engine(TINY, page_size=4) as engine:
        for number, lora in enumerate(loras):
            engine.load_adapter(f"a{number}", lora)
        names = [None, "a0", "a1", "a2"]

        async def everything():
            jobs = [
                engine.agenerate(GenerateRequest(tuple(p), GREEDY, name))
                for p, name in zip(items, names)
            ]
            return [(await job)[0] for job in [asyncio.ensure_future(j) for j in jobs]]

        mixed = asyncio.run(everything())
    for output, lora, prompt in zip(mixed, [None, *loras], items):
        with Engine(merged(lora) if lora else TINY) as engine:
            assert_same([output], engine.generate([prompt], GREEDY))


def test_the_draw_depends_on_the_seed_and_not_on_the_batch():
    sampling = SamplingParams(temperature=1.0, top_p=0.9, seed=5, max_new_tokens=16)
    items = prompts(5)
    together = run(items, sampling)[0]
    alone = [run([p], sampling)[0][0] for p in items]
    assert [o.token_ids for o in together] == [o.token_ids for o in alone]


def test_a_flush_in_the_middle_changes_nothing_and_loses_no_page():
    items = [prompts(1)[0][:21]] * 3
    expected = run(items)[0]
    with Engine(TINY, page_size=4) as engine:
        engine.generate(items[:1], GREEDY)  # fills the cache
        core = engine._core
        step, count = core.step, 0

        def flushing_step():
            nonlocal count
            count += 1
            if count % 3 == 0:
                core.flush()
            return step()

        core.step = flushing_step
        outputs = engine.generate(items, GREEDY)
        engine.check()
    assert_same(outputs, expected)
