"""Tokens that a grammar forces cost no steps, and nothing else changes: answers, figures, ends."""

import asyncio
import dataclasses
import functools
import json
import random

import pytest
import torch
from answers import WAIT_S, assert_same, serve

from evolute.engine import Engine
from evolute.grammar import Matcher
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.types import ConfigError, GenerateRequest, SamplingParams

TINY = load_model("tiny")
EXECUTORS = ["native", "torch"]
WIZARD = (  # after SGLang's example of a character (arXiv 2312.07104, appendix)
    r'\{"name": "[a-zA-Z ]{1,12}", "house": "(Gryffindor|Slytherin|Ravenclaw|Hufflepuff)", '
    r'"wand": \{"wood": "[a-z]{1,9}", "length": [0-9]{1,2}\.[0-9]\}, "alive": "(Alive|Deceased)"\}'
)
SCHEMA = json.dumps(
    {
        "x-guidance": {"whitespace_flexible": False},
        "type": "object",
        "properties": {
            "temperature": {"type": "integer", "minimum": 0, "maximum": 40},
            "condition": {"enum": ["sunny", "sunny and dry", "snow"]},
            "place": {"const": "Zürich 🎉"},
        },
        "required": ["temperature", "condition", "place"],
        "additionalProperties": False,
    }
)


def lora(seed):
    weights = LoraWeights.init(LoraConfig(rank=4 + 4 * seed), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
    return weights


LORAS = {name: lora(seed) for seed, name in enumerate(["ann", "bob"])}


def request(seed, size, adapter=None, **sampling):
    draw = random.Random(seed)
    prompt = tuple(draw.randrange(256) for _ in range(size))
    given = {"max_new_tokens": 150, "temperature": 0.9, "seed": seed} | sampling
    return GenerateRequest(prompt, SamplingParams(**given), adapter)


REQUESTS = [
    request(0, 5, regex=WIZARD, temperature=0, top_logprobs=3, logprob_token_ids=(5, 34)),
    request(1, 17, regex=WIZARD, n=3, top_p=0.8, top_k=40, min_p=0.01),
    request(2, 9, json_schema=SCHEMA, n=2, adapter="ann", top_logprobs=2),
    request(3, 4, json_schema=SCHEMA, repetition_penalty=1.3, frequency_penalty=0.5),
    request(4, 4, regex=WIZARD, presence_penalty=-0.5, temperature=1.6, adapter="bob"),
    request(5, 6, regex=WIZARD, stop=("house",)),
    request(5, 6, regex=WIZARD, stop=("dor",), include_stop=True, n=2),
    request(5, 6, regex=WIZARD, stop_regex=('"w[a-z]+":',), n=2),
    request(5, 6, json_schema=SCHEMA, stop_token_ids=(ord("d"), ord("z")), n=2),
    request(6, 3, regex="abcdefgh[ij]?", min_new_tokens=9, n=2),
    request(6, 3, regex="abcdefgh[ij]?", min_new_tokens=50, ignore_eos=True),
    request(7, 3, regex="abcdefgh(xyzxyzxyz)?", n=4, logit_bias={ord("b"): -50.0}),
    request(8, 10, regex=WIZARD, prompt_logprobs=True),
    request(8, 10, regex=WIZARD, prompt_logprobs=True, max_new_tokens=0),
    *(request(9, 3, regex="abcdefghij[kl]mnop", max_new_tokens=most) for most in (1, 2, 3, 9, 12)),
    request(10, 2, ebnf='root ::= "begin " [a-c]+ " end of it"', n=2),
    request(11, 2, lark='start: "<<<" WORD ">>>" WORD\nWORD: /[a-z]{3}(ing|ness)/', adapter="bob"),
    request(12, 5, temperature=0, max_new_tokens=40, ignore_eos=True),  # no grammar
    request(12, 5, max_new_tokens=40, ignore_eos=True, adapter="ann"),
]


def engine_of(executor, **settings):
    engine = Engine(
        TINY,
        **({"executor": executor, "page_size": 4, "memory_mb": 4, "num_threads": 1} | settings),
    )
    for name, weights in LORAS.items():
        engine.load_adapter(name, weights)
    return engine


@functools.cache
def plain(executor):
    with engine_of(executor, jump_forward=False) as engine:
        answers = serve(engine, REQUESTS)
        assert engine.stats().counts.forced_tokens == 0
        reasons = {o.finish_reason for group in answers for o in group}
        assert reasons == {"stop", "length"}
        return answers


SETTINGS = [
    {},
    {"page_size": 1, "jump_tokens": 1},
    {"page_size": 16, "jump_tokens": 64, "policy": "vtc"},
    {"token_budget": 40, "max_running": 6},
    {"token_budget": 7, "max_running": 3, "jump_tokens": 3},
    {"prefix_cache": False, "sampler": "plain"},
    {"speculation": "ngram", "ngram_min": 1, "speculate_up_to": 64},
    {"max_running": 1},
]
QUICK_ON_TORCH = SETTINGS[4]


def cases():
    for executor in EXECUTORS:
        for settings in SETTINGS:
            is_slow = executor == "torch" and settings is not QUICK_ON_TORCH
            marks = [pytest.mark.slow] if is_slow else []
            yield pytest.param(executor, settings, id=f"{executor}-{settings}", marks=marks)


@pytest.mark.parametrize(("executor", "settings"), list(cases()))
def test_what_a_grammar_forces_changes_no_answer(executor, settings):
    with engine_of(executor, **settings) as engine:
        assert_same(serve(engine, REQUESTS), plain(executor))
        engine.check()
        assert_same(serve(engine, REQUESTS), plain(executor))  # now out of the cache
        engine.check()
        counts = engine.stats().counts
        made = 2 * sum(len(o.token_ids) for group in plain(executor) for o in group)
        assert counts.output_tokens == made
        assert 0 < counts.jumped_tokens <= counts.forced_tokens
        assert (counts.accepted_tokens > 0) == ("speculation" in settings)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_steps_are_those_of_the_tokens_that_are_not_forced(executor, temperature):
    one = request(3, 6, regex=WIZARD, temperature=temperature)
    with engine_of(executor) as engine:
        (output,) = serve(engine, [one])[0]
        counts = engine.stats().counts
    assert counts.jumped_tokens == counts.forced_tokens > 0  # drawing decides nothing there
    assert counts.steps == len(output.token_ids) - counts.jumped_tokens
    assert counts.computed_tokens == 6 + len(output.token_ids) - 1  # each token once
    assert len(output.token_ids) > 1.6 * counts.steps
    assert len(output.logprobs) == len(output.token_ids)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_preempted_within_forced_runs_is_uninterrupted(executor):
    with engine_of(executor, page_size=4) as engine:
        engine._loop._inspect = lambda: None  # it would take back what is held
        pool = engine._core.placement.pool
        held = pool.allocate(pool.num_free - 360 // 4)
        assert_same(serve(engine, REQUESTS), plain(executor))
        counts = engine.stats().counts
        assert counts.preemptions > 0 and counts.jumped_tokens > 0
        pool.free(held)
        engine.check()


def test_a_stream_has_a_piece_for_each_token():
    async def collect(engine, one):
        pieces, outputs = {}, {}
        async for delta in engine.stream(one):
            pieces.setdefault(delta.index, []).append(delta)
            if delta.output:
                outputs[delta.index] = delta.output
        for index, output in outputs.items():
            told = pieces[index]
            assert "".join(d.text for d in told) == output.text
            assert [d.token_ids for d in told if d.token_ids] == [(t,) for t in output.token_ids]
            assert tuple(p for d in told for p in d.logprobs) == output.logprobs
        return [outputs[index] for index in sorted(outputs)]

    with engine_of("native") as engine:
        found = [
            asyncio.run(asyncio.wait_for(collect(engine, dataclasses.replace(one)), WAIT_S))
            for one in REQUESTS
        ]
        assert engine.stats().counts.jumped_tokens > 0
    assert_same(found, plain("native"))


def test_it_can_be_turned_off_and_on_while_serving():
    with engine_of("native") as engine:
        counts = []
        for jump_forward in (True, False, True):
            engine.apply_settings(jump_forward=jump_forward)
            assert_same(serve(engine, REQUESTS), plain("native"))
            counts.append(engine.stats().counts)
    assert counts[0].jumped_tokens == counts[1].jumped_tokens < counts[2].jumped_tokens
    assert counts[1].steps - counts[0].steps > counts[0].steps


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_library_that_is_wrong_about_what_is_forced_costs_guesses_only(executor, monkeypatch):
    draw, right = random.Random(0), Matcher.forced_tokens

    def spoilt(matcher):
        return [
            draw.randrange(256) if draw.random() < 0.3 else token
            for token in [*right(matcher), *draw.choices(range(97, 123), k=2)]
        ]

    monkeypatch.setattr(Matcher, "forced_tokens", spoilt)
    with engine_of(executor) as engine:
        assert_same(serve(engine, REQUESTS), plain(executor))
        engine.check()
        counts = engine.stats().counts
        assert 0 < counts.jumped_tokens < counts.forced_tokens


@pytest.mark.parametrize("jump_forward", [True, False])
def test_a_matcher_that_gives_up_ends_its_own_output_at_the_same_token(jump_forward, monkeypatch):
    """The 20th token runs into a limit of the library, wherever the matcher was copied."""
    error = Matcher.error.fget

    def is_over(matcher):
        return matcher.num_accepted >= 20 and bytes(matcher._accepted[:2]) == b'{"'

    monkeypatch.setattr(
        Matcher, "error", property(lambda self: "a limit" if is_over(self) else error(self))
    )
    others = [one for one in REQUESTS if one.sampling.regex != WIZARD]
    others = [one for one in others if one.sampling.json_schema is None]
    hurt = request(0, 5, regex=WIZARD, temperature=0)
    with engine_of("native", jump_forward=jump_forward) as engine:
        *fine, failed = serve(engine, [*others, hurt])
        engine.check()
    assert failed[0].finish_reason == "error"
    assert failed[0].error == "the grammar failed: a limit"
    assert len(failed[0].token_ids) == 20
    places = [REQUESTS.index(one) for one in others]
    assert_same(fine, [plain("native")[place] for place in places])


def test_a_logit_that_is_no_number_ends_a_forced_run_where_it_would_have_ended():
    one = request(0, 5, regex=WIZARD, temperature=0)
    with engine_of("native") as engine:
        answers = serve(engine, [one])
        core = engine._core
        choose = core._sampler.choose

        def failing(logits, indices, rows):
            chosen = choose(logits, indices, rows)
            return [None if len(r.output) == 6 else c for r, c in zip(rows, chosen)]

        core._sampler.choose = failing
        (failed,) = serve(engine, [one])[0]
        engine.check()
    assert failed.finish_reason == "error" and "not finite" in failed.error
    assert failed.token_ids == answers[0][0].token_ids[:6]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"engine\.jump_tokens is 0"):
        Engine(TINY, jump_tokens=0)
