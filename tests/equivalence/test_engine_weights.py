"""New weights in flight: who sampled which token is told, and nothing old is ever reused."""

import asyncio

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.models.tiny import tiny_weights
from evolute.types import GenerateRequest, RequestError, SamplingParams, UnknownAdapter

TINY = load_model("tiny")
PROMPT = tuple((13 * i) % 251 for i in range(70))
GREEDY = SamplingParams(temperature=0, max_new_tokens=12, ignore_eos=True)
EXECUTORS = pytest.mark.parametrize("executor", ["native", "torch"])
PAGES = pytest.mark.parametrize("page_size", [1, 4, 16])


def lora(seed):
    weights = LoraWeights.init(LoraConfig(rank=8), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return weights


def ask(engine, adapter=None):
    return engine.generate([PROMPT], GREEDY, adapter)[0]


def fresh(executor, base=0, adapter=None):
    """The answer of an engine that never held other weights."""
    with Engine(TINY, executor=executor, prefix_cache=False, memory_mb=4, num_threads=1) as engine:
        if base:
            engine.load_weights(tiny_weights(seed=base), version=1)
        if adapter:
            engine.load_adapter("a", adapter)
        return ask(engine, "a" if adapter else None)


def assert_same(one, two):
    assert one.token_ids == two.token_ids
    assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


@EXECUTORS
@PAGES
def test_the_same_version_with_other_weights_reuses_nothing(executor, page_size):
    with Engine(TINY, executor=executor, page_size=page_size, memory_mb=4, num_threads=1) as engine:
        for seed in (1, 2, 1):
            engine.load_adapter("a", lora(seed), version=5)
            output = ask(engine, "a")
            assert output.cached_tokens == 0 and output.weight_version == 5
            assert_same(output, fresh(executor, adapter=lora(seed)))
        for base in (3, 4):
            engine.load_weights(tiny_weights(seed=base), version=5)
            for adapter, weights in ((None, None), ("a", lora(1))):
                output = ask(engine, adapter)
                assert output.cached_tokens == 0
                assert_same(output, fresh(executor, base, weights))
                assert ask(engine, adapter).cached_tokens == 69 - 69 % page_size
        engine.check()


def slowly(engine, act, when, adapter=None, **sampling):
    """Stream one request; call `act` on the engine's thread before step `when`."""
    core, count = engine._core, 0
    step = core.step

    def watched():
        nonlocal count
        count += 1
        if count == when:
            act()
        return step()

    core.step = watched
    given = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True} | sampling
    try:
        one = GenerateRequest(PROMPT, SamplingParams(**given), adapter)
        return asyncio.run(engine.agenerate(one))
    finally:
        core.step = step


@EXECUTORS
@PAGES
@pytest.mark.parametrize("when", [1, 2, 5, 9], ids=lambda n: f"step{n}")
@pytest.mark.parametrize("kind", ["adapter", "base", "base-under-adapter"])
def test_an_update_in_any_step_is_told_and_leaves_no_stale_page(executor, page_size, when, kind):
    adapter = None if kind == "base" else "a"
    base, weights = (0, lora(2)) if kind == "adapter" else (3, lora(1) if adapter else None)
    settings = {
        "executor": executor,
        "page_size": page_size,
        "memory_mb": 4,
        "token_budget": 32,
        "num_threads": 1,
    }
    with Engine(TINY, **settings) as engine:
        engine.load_adapter("a", lora(1))
        table = engine._adapters

        def update():
            if kind == "adapter":
                table.load("a", lora(2), 1)  # the version does not even change
            else:
                table.load_base(tiny_weights(seed=3), 1)

        before = ask(engine, adapter)
        (output,) = slowly(engine, update, when, adapter)
        assert sum(run.num_tokens for run in output.weight_versions) == len(output.token_ids)
        sampled_before = max(when - 1, 0)  # the prompt is in the cache: one token a step
        assert output.token_ids[:sampled_before] == before.token_ids[:sampled_before]
        if kind == "base" and when > 1:
            assert [r.version for r in output.weight_versions] == [0, 1]
            assert output.weight_versions[0].num_tokens == sampled_before
        assert_same(ask(engine, adapter), fresh(executor, base, weights))
        assert_same(ask(engine, adapter), fresh(executor, base, weights))
        engine.check()


@EXECUTORS
def test_an_update_during_a_chunked_prompt_shares_nothing_of_it(executor):
    with Engine(
        TINY, executor=executor, page_size=4, memory_mb=4, num_threads=1, token_budget=16
    ) as engine:
        slowly(engine, lambda: engine._adapters.load_base(tiny_weights(seed=3), 0), 3, n=3)
        assert_same(ask(engine), fresh(executor, base=3))
        engine.check()


@EXECUTORS
def test_versions_of_an_adapter_in_one_batch_are_two_adapters(executor):
    with Engine(TINY, executor=executor, memory_mb=4, num_threads=1) as engine:
        engine.load_adapter("old", lora(1))
        engine.load_adapter("new", lora(2), version=7)

        async def both():
            ones = [GenerateRequest(PROMPT, GREEDY, name) for name in ("old", "new", "old", None)]
            return await asyncio.gather(*[engine.agenerate(one) for one in ones])

        (old,), (new,), (again,), (base,) = asyncio.run(both())
    assert_same(old, fresh(executor, adapter=lora(1)))
    assert_same(new, fresh(executor, adapter=lora(2)))
    assert_same(base, fresh(executor))
    assert old.token_ids == again.token_ids
    assert [o.weight_version for o in (old, new, base)] == [1, 7, 0]


@EXECUTORS
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(executor):
    with Engine(TINY, executor=executor, memory_mb=4, num_threads=1) as engine:
        engine.load_adapter("a", lora(1))
        before = ask(engine), ask(engine, "a")
        wide = LoraWeights.init(LoraConfig(rank=4), TINY.config)
        wide.tensors[1, "q_proj"] = (torch.zeros(4, 65), torch.zeros(64, 4))
        with pytest.raises(RequestError, match="was it trained on another model"):
            engine.load_adapter("a", wide)
        broken = lora(2)
        broken.tensors[0, "o_proj"][1][3, 2] = float("nan")
        with pytest.raises(RequestError, match="not finite"):
            engine.load_adapter("a", broken)
        short = type(TINY.weights)({k: v for k, v in TINY.weights.items() if "layers.1" not in k})
        with pytest.raises(RequestError, match="same architecture"):
            engine.load_weights(short, version=2)
        with pytest.raises(UnknownAdapter, match="Did you mean 'a'"):
            engine.unload_adapter("aa")
        assert (ask(engine).token_ids, ask(engine, "a").token_ids) == tuple(
            output.token_ids for output in before
        )


def test_a_prompt_that_is_only_scored_tells_the_version_that_scored_it():
    with Engine(TINY, memory_mb=4, num_threads=1) as engine:
        engine.load_weights(tiny_weights(seed=3), version=4)
        score = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
        (output,) = engine.generate([PROMPT], score)
        assert (output.weight_version, len(output.prompt_logprobs)) == (4, 70)
        assert output.finish_reason == "length" and engine.stats().counts.finished == 1
