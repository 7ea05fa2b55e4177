"""Several ranks answer as one does: tokens, log-probabilities, adapters and new weights."""

import asyncio
import dataclasses
import functools
import random

import numpy as np
import pytest
import torch

from evolute.engine import Engine
from evolute.engine.execution.batch import Segment, build_batch
from evolute.models import LoraConfig, LoraWeights, ModelWeights, load_model, pack
from evolute.models.tiny import tiny_weights
from evolute.types import GenerateRequest, RequestError, SamplingParams

TINY = load_model("tiny")
TARGETS = {"ann": ("q_proj", "o_proj", "down_proj"), "bob": None, "eve": ("v_proj", "up_proj")}
RANKS = {"ann": 3, "bob": 8, "eve": 13}


def lora(name, seed=0):
    config = LoraConfig(RANKS[name], targets=TARGETS[name] or LoraConfig().targets)
    weights = LoraWeights.init(config, TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.1, generator=torch.Generator().manual_seed(RANKS[name] + seed))
    return weights


def request(seed, size, adapter=None, **sampling):
    draw = random.Random(seed)
    prompt = tuple([7] * 20 + [draw.randrange(256) for _ in range(size)])
    given = {"max_new_tokens": 16, "temperature": 0.8, "seed": seed, "ignore_eos": True} | sampling
    return GenerateRequest(prompt, SamplingParams(**given), adapter)


REQUESTS = [
    request(0, 9, temperature=0, top_logprobs=3),
    request(1, 40, n=2),
    request(2, 17, top_p=0.8, top_k=40, adapter="ann"),
    request(3, 12, repetition_penalty=1.3, adapter="eve"),
    request(4, 25, temperature=0, adapter="bob", max_new_tokens=30),
    request(5, 8, regex="[a-f]{4,9}X?", ignore_eos=False, adapter="ann"),
    request(6, 40, prompt_logprobs=True),
    request(7, 40, prompt_logprobs=True, max_new_tokens=0, adapter="bob"),
    request(1, 40, adapter="eve", temperature=0),  # the prompt of the second, on other weights
]


def engine_of(ranks, model=TINY, **settings):
    given = {"executor": "torch", "page_size": 4, "memory_mb": 2, "num_threads": 1} | settings
    return Engine(model, tensor_parallel=ranks, **given)


def serve(engine, requests=REQUESTS):
    """All begin in the same step, so that what is scheduled does not depend on the clock."""

    async def everything():
        fresh = [dataclasses.replace(r, id=f"{i}-{id(r)}") for i, r in enumerate(requests)]
        engine.pause()
        sent = [asyncio.create_task(engine.agenerate(r)) for r in fresh]
        while engine.stats().waiting < sum(r.sampling.n for r in fresh):
            await asyncio.sleep(0.001)
        engine.resume()
        return await asyncio.gather(*sent)

    return [output for outputs in asyncio.run(everything()) for output in outputs]


def assert_same(got, want, within=1e-4):
    for one, two in zip(got, want, strict=True):
        assert one.token_ids == two.token_ids
        assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
        assert one.logprobs == pytest.approx(two.logprobs, abs=within)
        assert one.prompt_logprobs[1:] == pytest.approx(two.prompt_logprobs[1:], abs=within)


def load_all(engine):
    for name in RANKS:
        engine.load_adapter(name, lora(name))


@functools.cache
def alone():
    """One rank, one request at a time, nothing saved."""
    with engine_of(1, prefix_cache=False, adapter_paging=False) as engine:
        load_all(engine)
        return [output for one in REQUESTS for output in serve(engine, [one])]


@pytest.fixture(scope="module")
def two():
    with engine_of(2) as engine:
        load_all(engine)
        yield engine


def test_two_ranks_answer_as_one_in_any_company(two):
    assert_same(serve(two), alone())
    cached = serve(two)
    assert_same(cached, alone())
    assert sum(output.cached_tokens for output in cached) > 0
    two.check()


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, {"token_budget": 7, "page_size": 1, "speculation": "ngram"}),
        pytest.param(4, {"token_budget": 16}, marks=pytest.mark.slow),  # more ranks than kv heads
        pytest.param(2, {"prefix_cache": False, "max_running": 2}, marks=pytest.mark.slow),
        pytest.param(2, {"adapter_paging": False}, marks=pytest.mark.slow),
        pytest.param(2, {"adapter_prefetch": False, "memory_mb": 1}, marks=pytest.mark.slow),
        pytest.param(2, {"speculation": "ngram", "draft_tokens": 6}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_savings_change_only_cost(ranks, settings):
    with engine_of(ranks, **settings) as engine:
        load_all(engine)
        assert_same(serve(engine), alone())
        engine.check()


def test_logprobs_of_decoding_are_those_of_reading(two):
    (made,) = two.generate(
        [list(REQUESTS[4].prompt)],
        SamplingParams(temperature=0, max_new_tokens=20, ignore_eos=True),
        "bob",
    )
    again = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    (read,) = two.generate([[*REQUESTS[4].prompt, *made.token_ids]], again, "bob")
    assert read.prompt_logprobs[-20:] == pytest.approx(made.logprobs, abs=1e-3)


def test_new_versions_and_new_weights_are_the_wholes(two):
    assert two.fingerprint("bob") == lora("bob").fingerprint()
    new = lora("bob", seed=5)
    info = two.load_adapter("bob", new)
    assert (info.version, info.fingerprint) == (2, new.fingerprint())
    wanted = REQUESTS[4]
    with engine_of(1) as fresh:
        fresh.load_adapter("bob", new)
        assert_same(serve(two, [wanted]), serve(fresh, [wanted]))
        base = tiny_weights(seed=3)
        digest = two.load_weights(base, version=4)
        assert digest == base.fingerprint() == fresh.load_weights(base, version=4)
        assert_same(serve(two, [wanted, REQUESTS[0]]), serve(fresh, [wanted, REQUESTS[0]]))
    for name in ("embed_tokens", "layers.1.self_attn.q_proj", "layers.0.mlp.down_proj"):
        found = two.read_weight(f"{name}.weight", 100)
        assert np.array_equal(found, base.dense(f"{name}.weight")[:100].numpy())
    assert two.read_weight("norm.weight", 3) == base.dense("norm.weight")[:3].tolist()
    with pytest.raises(RequestError, match="missing"):
        two.load_weights(ModelWeights({}), version=5)
    two.load_weights(TINY.weights, version=6)
    two.load_adapter("bob", lora("bob"))
    assert_same(serve(two), alone())
    two.unload_adapter("eve")
    with pytest.raises(RequestError, match="no adapter 'eve'"):
        two.generate([[1, 2]], SamplingParams(max_new_tokens=1), "eve")
    two.load_adapter("eve", lora("eve"))


def test_each_rank_holds_its_share_and_sends_what_the_papers_say(two):
    executor, config = two._core.executor, TINY.config
    norms = sum(w.numel() for n, w in TINY.weights.items() if n.endswith("norm.weight"))
    split = sum(w.numel() for n, w in TINY.weights.items() if not n.endswith("norm.weight"))
    before = executor.ranks()
    held = [rank.weight_bytes // 4 - norms for rank in before]
    assert sum(held) == split and max(held) - min(held) <= config.width, "a row of the vocabulary"
    pages = two.stats().num_pages * two._core.settings.page_bytes
    assert [rank.page_bytes for rank in before] == [pages // 2] * 2
    assert len({rank.pid for rank in before}) == 2

    def sent(weights=None):
        """Floats that rank 0 sends in one step of 6 tokens with one row of logits."""
        index, pool = 77, two._core.placement.pool
        pages = pool.allocate(80)
        if weights:
            executor.write_adapter(pack(weights), pages[2:])
            executor.set_adapter(index, pack(weights), pages[2:])
        start = executor.ranks()[0].sent_floats
        batch = build_batch([Segment(range(6), 0, pages[:2], index if weights else -1, 5)])
        executor.forward(batch)
        executor.drop_adapter(index)
        pool.free(pages)
        return executor.ranks()[0].sent_floats - start

    sums = (2 * config.num_layers + 1) * 6 * config.width  # attention, mlp; the embedding
    assert two._loop.call(sent) == sums  # 2 (N - 1) / N of each sum
    low = sum(1 if m not in ("o_proj", "down_proj") else 2 for m in LoraConfig().targets)
    more = two._loop.call(lambda: sent(lora("bob"))) - sums
    assert more == config.num_layers * low * 6 * RANKS["bob"] / 2
    two.check()


def test_bad_plans_are_refused_before_they_are_sent(two):
    executor = two._core.executor
    for batch, what in (
        (build_batch([Segment([TINY.config.vocab_size], 0, [1], -1, 0)]), "a token outside"),
        (build_batch([Segment([1], 0, [10**6], -1, 0)]), "a page outside"),
        (build_batch([Segment([1], 0, [1], 99, 0)]), "99"),
    ):
        with pytest.raises(LookupError, match=what):
            executor.forward(batch)
    assert_same(serve(two), alone())


@pytest.mark.slow
def test_bfloat16_is_near():
    """Rounding differs in the order of sums: most tokens of a greedy answer are the same."""
    greedy = SamplingParams(temperature=0, max_new_tokens=8, ignore_eos=True)
    score = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    prompts = [list(r.prompt) for r in REQUESTS]
    found = {}
    for ranks in (1, 2):
        with engine_of(ranks, precision="bfloat16") as engine:
            load_all(engine)
            scores = engine.generate(prompts, score, "bob")
            found[ranks] = [x for output in scores for x in output.prompt_logprobs[1:]]
            assert engine.config.kv_dtype == "float16"
            engine.generate(prompts, greedy)
    with engine_of(1) as engine:
        load_all(engine)
        exact = [x for o in engine.generate(prompts, score, "bob") for x in o.prompt_logprobs[1:]]
    error = {n: np.abs(np.array(values) - exact).mean() for n, values in found.items()}
    assert error[2] < 2 * error[1] + 0.01


@pytest.mark.slow
def test_three_ranks_on_the_embedded_model():
    model = load_model("smollm2-135m")
    text = "Write one sentence about a lighthouse keeper and her cat."
    prompts = [model.tokenizer.encode(text), model.tokenizer.encode("The capital of France is")]
    greedy = SamplingParams(temperature=0, max_new_tokens=16, ignore_eos=True)
    weights = LoraWeights.init(LoraConfig(16), model.config, 1)
    for _, b in weights.tensors.values():
        b.normal_(std=0.01, generator=torch.Generator().manual_seed(1))
    found = {}
    for ranks in (1, 3):
        with engine_of(ranks, model, memory_mb=64, page_size=16) as engine:
            engine.load_adapter("a", weights)
            outputs = [*engine.generate(prompts, greedy), *engine.generate(prompts, greedy, "a")]
            again = [[*p, *o.token_ids] for p, o in zip(prompts, outputs)]
            score = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
            for output, read in zip(outputs, engine.generate(again, score)):
                assert read.prompt_logprobs[-16:] == pytest.approx(output.logprobs, abs=1e-3)
            found[ranks] = outputs
    assert_same(found[3], found[1], within=1e-3)
    without, with_ = found[1][0].logprobs, found[1][2].logprobs
    assert max(abs(a - b) for a, b in zip(without, with_)) > 0.01, "the adapter does too little"


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [1, 2])
def test_gpus_answer_as_the_cpu(ranks):
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"{ranks} GPUs are needed")
    with engine_of(ranks, device="cuda") as engine:
        load_all(engine)
        assert_same(serve(engine), alone(), within=1e-3)
        assert_same(serve(engine), alone(), within=1e-3)
        engine.check()
