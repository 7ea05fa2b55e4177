"""What is told of prompts and outputs is the model's distribution, however it was computed."""

import dataclasses

import numpy as np
import pytest
import torch

from evolute.engine import Engine
from evolute.models import Decoder, causal_attention, load_model
from evolute.types import PromptTooLong, RequestError, SamplingParams

TINY = load_model("tiny")
PROMPT = [int(x) for x in np.random.default_rng(3).integers(0, 250, 90)]
IDS = (7, 0, 258)
ASKED = SamplingParams(
    max_new_tokens=5,
    temperature=0.7,
    seed=2,
    ignore_eos=True,
    top_logprobs=3,
    logprob_token_ids=IDS,
    prompt_logprobs=True,
    prompt_top_logprobs=4,
)
PLAIN = {"executor": "torch", "num_threads": 1, "page_size": 4}
FAST = {"executor": "native", "num_threads": 1, "page_size": 4, "token_budget": 32}
MIXED = FAST | {"sampler": "plain"}


@pytest.fixture(scope="module", params=[PLAIN, FAST, MIXED], ids=["torch", "native", "mixed"])
def engine(request):
    with Engine(TINY, **request.param) as engine:
        yield engine


@torch.no_grad()
def distributions(tokens, temperature):
    """Log-probabilities [T, V] after each token, by the decoder alone."""
    decoder = Decoder(TINY.config)
    decoder.load(TINY.weights)
    ids = torch.tensor(tokens)
    hidden = decoder(ids, torch.arange(len(tokens)), causal_attention([len(tokens)]))
    return torch.log_softmax((hidden @ decoder.head_weight.T).double() / temperature, -1).numpy()


@pytest.mark.parametrize("first", [0, 1, 37, 88, 89])
def test_everything_told_is_the_decoders(engine, first):
    sampling = dataclasses.replace(ASKED, prompt_logprobs_from=first)
    (output,) = engine.generate(PROMPT, sampling)
    rows = distributions([*PROMPT, *output.token_ids], 0.7)
    size = len(PROMPT)
    assert len(output.prompt_logprobs) == size - first
    assert output.prompt_logprobs[0] is None
    assert (output.prompt_top_logprobs[0], output.prompt_id_logprobs[0]) == ((), ())
    for place in range(first + 1, size):
        told, row = place - first, rows[place - 1]
        assert output.prompt_logprobs[told] == pytest.approx(row[PROMPT[place]], abs=1e-4)
        check_top(output.prompt_top_logprobs[told], row, 4)
        assert output.prompt_id_logprobs[told] == pytest.approx(row[list(IDS)], abs=1e-4)
    for i, token in enumerate(output.token_ids):
        row = rows[size - 1 + i]
        assert output.logprobs[i] == pytest.approx(row[token], abs=1e-4)
        check_top(output.top_logprobs[i], row, 3)
        assert output.id_logprobs[i] == pytest.approx(row[list(IDS)], abs=1e-4)


def check_top(told, row, count):
    assert [one.token_id for one in told] == list(np.argsort(-row, kind="stable")[:count])
    assert [one.logprob for one in told] == pytest.approx(np.sort(row)[::-1][:count], abs=1e-4)


def test_what_lies_before_the_first_told_token_may_be_cached(engine):
    engine.flush_cache()
    whole = dataclasses.replace(ASKED, prompt_logprobs_from=0, max_new_tokens=0)
    (cold,) = engine.generate(PROMPT, whole)
    part = dataclasses.replace(whole, prompt_logprobs_from=50)
    (warm,) = engine.generate(PROMPT, part)
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 48)  # 50, down to pages of 4
    assert warm.prompt_logprobs[1:] == pytest.approx(cold.prompt_logprobs[51:], abs=1e-5)
    assert cold.token_ids == warm.token_ids == ()


def test_deltas_carry_the_same(engine):
    import asyncio

    from evolute.types import GenerateRequest

    async def collect():
        return [d async for d in engine.stream(GenerateRequest(tuple(PROMPT), ASKED))]

    deltas = asyncio.run(collect())
    output = deltas[-1].output
    assert tuple(v for d in deltas for v in d.id_logprobs) == output.id_logprobs
    assert {d.cached_tokens for d in deltas} == {output.cached_tokens}


def test_a_place_after_the_prompt_and_an_unknown_id_are_refused(engine):
    with pytest.raises(RequestError, match="it has 90; use at most 89"):
        engine.generate(PROMPT, dataclasses.replace(ASKED, prompt_logprobs_from=90))
    with pytest.raises(RequestError, match="259 in logprob_token_ids is out of vocabulary"):
        engine.generate(PROMPT, dataclasses.replace(ASKED, logprob_token_ids=(259,)))
    with pytest.raises(PromptTooLong):
        engine.generate([1] * 5000, ASKED)


def test_a_preempted_request_tells_the_same():
    """Each holds its own pages, and there are too few for all to come to their end at once."""
    sampling = dataclasses.replace(ASKED, max_new_tokens=100, prompt_logprobs_from=20)
    alone = {**FAST, "prefix_cache": False}
    with Engine(TINY, **alone) as calm, Engine(TINY, **alone, memory_mb=1) as tight:
        (expected,) = calm.generate(PROMPT, sampling)
        outputs = tight.generate([PROMPT] * 24, sampling)
        assert tight.stats().counts.preemptions > 0
        for output in outputs:
            assert output.prompt_logprobs[1:] == pytest.approx(
                expected.prompt_logprobs[1:], abs=1e-4
            )
            assert output.token_ids == expected.token_ids
        tight.check()
