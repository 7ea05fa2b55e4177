"""Paging adapters, prefetching them and making them take turns change costs, never answers."""

import asyncio
import threading

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.types import GenerateRequest, PromptTooLong, RequestError, SamplingParams

TINY = load_model("tiny")
EXECUTORS = pytest.mark.parametrize("executor", ["native", "torch"])
RANKS = [4, 40, 12, 1, 30, 20, 8, 33, 16, 25]  # a rank takes a page of 16 tokens: 189 of 128
PROMPTS = [tuple((5 * i + 11 * j) % 251 for j in range(6 + 9 * i)) for i in range(len(RANKS))]


def lora(rank, seed=0, std=0.2):
    weights = LoraWeights.init(LoraConfig(rank=rank), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=std, generator=torch.Generator().manual_seed(seed))
    return weights


def answers(executor, rounds=2, **settings):
    """Tokens and log-probabilities of all adapters and the base, some of them sampled."""
    with Engine(TINY, executor=executor, memory_mb=1, **settings) as engine:
        for index, rank in enumerate(RANKS):
            engine.load_adapter(f"a{index}", lora(rank, index))

        async def all_of_them():
            requests = []
            for i in range(rounds * len(RANKS)):
                sampling = SamplingParams(
                    temperature=0.7 * (i % 2), max_new_tokens=8 + i % 5, ignore_eos=True, seed=i
                )
                name = f"a{i % len(RANKS)}" if i % 7 else None
                requests.append(GenerateRequest(PROMPTS[i % len(PROMPTS)], sampling, name))
            return await asyncio.gather(*[engine.agenerate(one) for one in requests])

        found = [output for (output,) in asyncio.run(all_of_them())]
        engine.check()
        return [(o.token_ids, o.logprobs) for o in found], engine.stats()


@EXECUTORS
def test_adapters_that_take_turns_answer_as_those_that_stay(executor):
    same, loads = [], {}
    for name, settings in {
        "resident": {"adapter_paging": False},
        "paged": {"adapter_prefetch": False},
        "prefetched": {},
        "few at once": {"max_running": 3, "token_budget": 24},
    }.items():
        found, stats = answers(executor, **settings)
        same.append(found)
        loads[name] = stats.adapter_loads
        paged = name != "resident"
        assert (stats.adapter_pages > 0) == (stats.resident_adapters > 0) == paged
        assert stats.adapter_pages <= stats.num_pages
    tokens = [[ids for ids, _ in found] for found in same]
    assert all(one == tokens[0] for one in tokens)
    for found in same[1:]:
        for (_, one), (_, two) in zip(found, same[0]):
            assert one == pytest.approx(two, abs=1e-4)
    assert loads["resident"].loads == 0
    assert loads["paged"].loads > len(RANKS), "the pool was too large to make them take turns"
    assert loads["paged"].prefetches == 0 < loads["few at once"].prefetches


@EXECUTORS
@pytest.mark.parametrize("rank", [2, 60])
def test_a_new_version_of_another_rank_serves_the_requests_in_flight(executor, rank):
    settings = {"executor": executor, "memory_mb": 1, "num_threads": 1}
    with Engine(TINY, **settings) as engine:
        engine.load_adapter("a", lora(20, 1))
        core, step, count = engine._core, engine._core.step, 0

        def watched():
            nonlocal count
            count += 1
            if count == 3:
                engine._adapters.load("a", lora(rank, 2), None)
                core.check()
            return step()

        core.step = watched
        greedy = SamplingParams(temperature=0, max_new_tokens=10, ignore_eos=True)
        (output,) = engine.generate([PROMPTS[3]], greedy, "a")
        assert [(run.version, run.num_tokens) for run in output.weight_versions] == [(1, 2), (2, 8)]
        (after,) = engine.generate([PROMPTS[3]], greedy, "a")
        assert after.cached_tokens == 0
        with Engine(TINY, **settings) as fresh:
            fresh.load_adapter("a", lora(rank, 2))
            assert fresh.generate([PROMPTS[3]], greedy, "a")[0].token_ids == after.token_ids
        engine.check()


def test_an_adapter_larger_than_the_pool_is_refused_with_the_numbers():
    with Engine(TINY, memory_mb=1, num_threads=1) as engine:
        with pytest.raises(RequestError, match=r"takes 130 pages of 0.01 MB \(1.0 MB\).*128 \(1.0"):
            engine.load_adapter("a", lora(130))
        assert engine.adapters() == {}
        info = engine.load_adapter("a", lora(127))
        assert (info.rank, info.num_pages, info.num_bytes) == (127, 127, 127 * 8192)
        with pytest.raises(PromptTooLong, match="beside the adapter"):
            engine.generate([PROMPTS[2]], SamplingParams(max_new_tokens=20), "a")
        (output,) = engine.generate(
            [PROMPTS[0]], SamplingParams(max_new_tokens=4, ignore_eos=True), "a"
        )
        assert len(output.token_ids) == 4
    with Engine(TINY, memory_mb=1, num_threads=1, adapter_paging=False) as engine:
        assert engine.load_adapter("a", lora(130)).num_pages == 0


def test_a_version_for_which_pages_are_short_is_refused_and_the_old_one_goes_on():
    greedy = SamplingParams(temperature=0, max_new_tokens=500, ignore_eos=True)
    with Engine(TINY, memory_mb=1, num_threads=1, prefix_cache=False) as engine:
        engine.load_adapter("a", lora(40, 1))
        engine.load_adapter("b", lora(40, 2))
        refusals = []

        def act():
            for rank in (60, 100):  # no page is left; none could ever be
                try:
                    engine._adapters.load("a", lora(rank, 3), None)
                except RequestError as error:
                    refusals.append(str(error))

        core, step = engine._core, engine._core.step

        def watched():
            if core.placement.pool.num_free < 5 and not refusals:
                act()
            return step()

        core.step = watched
        one, two = (GenerateRequest(PROMPTS[0], greedy, name) for name in "ab")

        async def both():
            return await asyncio.gather(engine.agenerate(one), engine.agenerate(two))

        outputs = [output for (output,) in asyncio.run(both())]
        engine.check()
        assert "can be had now; the version loaded before stays" in refusals[0]
        assert "requests in flight of 506 tokens 32" in refusals[1]
        assert [o.weight_version for o in outputs] == [1, 1]
        assert engine.fingerprint("a") == lora(40, 1).fingerprint()
        alone = engine.generate([PROMPTS[0]], greedy, "a")[0]
        assert alone.token_ids == outputs[0].token_ids


def test_host_memory_can_be_bounded():
    with Engine(TINY, memory_mb=4, num_threads=1, adapter_host_mb=1) as engine:
        engine.load_adapter("a", lora(100))
        with pytest.raises(RequestError, match=r"all adapters take 1.6 MB.*adapter_host_mb is 1"):
            engine.load_adapter("b", lora(100))
        engine.load_adapter("a", lora(120))  # in the place of the first
        engine.unload_adapter("a")
        engine.load_adapter("b", lora(100))


def test_an_adapter_in_use_is_not_unloaded_and_leaves_no_page_behind():
    with Engine(TINY, memory_mb=1, num_threads=1) as engine:
        engine.load_adapter("a", lora(16))
        seen = []

        async def talk():
            sampling = SamplingParams(max_new_tokens=200, ignore_eos=True)
            async for _ in engine.stream(GenerateRequest(PROMPTS[0], sampling, "a")):
                if not seen:
                    with pytest.raises(RequestError, match="in use"):
                        await asyncio.to_thread(engine.unload_adapter, "a")
                    seen.append(True)
                    break

        asyncio.run(talk())
        stats = engine.stats()
        assert seen and stats.running == 0 and stats.adapter_pages == 16
        engine.unload_adapter("a")
        stats = engine.stats()
        assert stats.free_pages + stats.cached_pages == stats.num_pages
        assert not engine._core.loader.store and not engine._core.executor.decoder._memory


def test_a_copy_that_fails_beside_a_step_is_made_again(caplog):
    with Engine(TINY, memory_mb=1, max_running=1, num_threads=1) as engine:
        for index in range(6):
            engine.load_adapter(f"a{index}", lora(RANKS[index], index))
        executor, broken = engine._core.executor, []
        write = executor.write_adapter

        def fails_in_the_background(packed, pages):
            if threading.current_thread().name.startswith("evolute-adapters"):
                broken.append(pages)
                raise OSError("no such memory")
            write(packed, pages)

        executor.write_adapter = fails_in_the_background
        greedy = SamplingParams(temperature=0, max_new_tokens=6, ignore_eos=True)

        async def ask():
            ones = [GenerateRequest(PROMPTS[0], greedy, f"a{i % 6}") for i in range(12)]
            return await asyncio.gather(*[engine.agenerate(one) for one in ones])

        found = [output.token_ids for (output,) in asyncio.run(ask())]
        assert broken and found[:6] == found[6:] and len(set(found)) > 1
        assert "could not be copied" in caplog.text
        engine.check()


def test_an_adapter_that_cannot_be_loaded_takes_its_request_only():
    with Engine(TINY, memory_mb=1, num_threads=1, adapter_prefetch=False) as engine:
        for index in range(2):
            engine.load_adapter(f"a{index}", lora(RANKS[index], index))
        executor, faults = engine._core.executor, [OSError("no such memory")]
        write = executor.write_adapter

        def fails_once(packed, pages):
            if faults:
                raise faults.pop()
            write(packed, pages)

        executor.write_adapter = fails_once
        greedy = SamplingParams(temperature=0, max_new_tokens=6, ignore_eos=True)
        (lost,) = engine.generate(list(PROMPTS[0]), greedy, "a0")
        assert lost.error == "OSError: no such memory"
        (base,) = engine.generate(list(PROMPTS[0]), greedy)
        (found,) = engine.generate(list(PROMPTS[0]), greedy, "a0")
        assert len(found.token_ids) == 6 and found.token_ids != base.token_ids
        assert engine.is_alive
        engine.check()
