"""Whatever is guessed, the answer is the one without guesses: tokens, texts, stops, figures.

`Oracle` guesses from the answer itself with some tokens spoilt, so that runs of every length are
accepted and cut, also in sampled outputs and where the output ends within a run.
"""

import asyncio
import dataclasses
import functools
import random

import pytest
import torch
from answers import WAIT_S, assert_same, serve

from evolute.engine import Engine
from evolute.engine.scheduling import SpeculationSettings, Speculator
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.models.tiny import tiny_weights
from evolute.types import GenerateRequest, SamplingParams

TINY = load_model("tiny")
EXECUTORS = ["native", "torch"]
ON = {"speculation": "ngram", "ngram_min": 1, "speculate_up_to": 64}


def lora(seed):
    weights = LoraWeights.init(LoraConfig(rank=4 + 4 * seed), TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
    return weights


LORAS = {name: lora(seed) for seed, name in enumerate(["ann", "bob"])}


def request(seed, size, adapter=None, **sampling):
    draw = random.Random(seed)
    words = [[draw.randrange(256) for _ in range(4)] for _ in range(2)]
    prompt = [token for _ in range(size) for token in draw.choice(words)]
    given = {"max_new_tokens": 24, "temperature": 0.9, "seed": seed, "ignore_eos": True} | sampling
    return GenerateRequest(tuple(prompt), SamplingParams(**given), adapter)


REQUESTS = [
    request(0, 5, temperature=0, top_logprobs=3, logprob_token_ids=(5, 9)),
    request(1, 7, n=3),
    request(2, 4, top_p=0.8, top_k=40, min_p=0.01, adapter="ann", top_logprobs=2),
    request(3, 4, repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=-0.5, n=2),
    request(3, 4, repetition_penalty=1.2, frequency_penalty=0.3, temperature=0),
    request(4, 6, stop=("z", "V1"), max_new_tokens=60, adapter="bob"),
    request(4, 6, stop_regex=("[a-m][n-z]", "[0-9]"), max_new_tokens=60, n=2),
    request(4, 6, stop_regex=("[A-Z]",), max_new_tokens=60, include_stop=True),
    request(5, 2, regex="[a-f]{4,9}X?", ignore_eos=False, n=2, adapter="ann"),
    request(6, 10, prompt_logprobs=True, temperature=0.7),
    request(7, 10, prompt_logprobs=True, max_new_tokens=0),
    request(8, 3, logit_bias={65: 9.0, 66: 8.0}, min_new_tokens=5, ignore_eos=False),
    request(9, 3, stop_token_ids=(65, 70), logit_bias={65: 5.0, 66: 8.0}, min_new_tokens=7),
    request(1, 7, adapter="bob", temperature=0),
    request(1, 7, max_new_tokens=1),
    request(1, 7, max_new_tokens=2),
    request(10, 5, temperature=0, max_new_tokens=90),  # falls into a loop
    request(10, 5, temperature=0.3, logit_bias={65: 9.0, 66: 9.0}, max_new_tokens=60),
]


class Oracle(Speculator):
    """Guesses what the answers say, each token spoilt with a chance of one in four."""

    def __init__(self, core, answers, *, seed=0, draft_tokens=4, wall=10**6):
        super().__init__(SpeculationSettings(draft_tokens=draft_tokens, up_to=64))
        self.core, self.answers, self.wall = core, answers, wall
        self.draw, self.most = random.Random(seed), draft_tokens

    def propose(self, running):
        for sequence in running:
            draft = self.core._drafts[sequence]
            made = sequence.num_generated
            count = min(self.most, sequence.max_new_tokens - made - 1)
            if made < self.wall:
                count = min(count, self.wall - made - 1)
            is_decode = sequence.num_uncomputed == 1 and made > 0
            sequence.proposed = []
            if is_decode and not sequence.is_constrained:
                answer = self.answers[number_of(draft.request)][draft.index].token_ids
                rest = [*answer[made:], *[3] * self.most][: max(count, 0)]
                sequence.proposed = [
                    self.draw.randrange(256) if self.draw.random() < 0.25 else token
                    for token in rest
                ]


def number_of(request):
    return int(request.id.split("-")[0])


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
    with engine_of(executor) as engine:
        answers = serve(engine, REQUESTS)
        assert engine.stats().counts.drafted_tokens == 0
        return answers


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    "settings",
    [
        {"page_size": 1},
        {"page_size": 16, "draft_tokens": 1},
        {"page_size": 4, "draft_tokens": 9, "policy": "vtc"},
        {"token_budget": 40, "max_running": 6},
        {"prefix_cache": False, "sampler": "plain"},
        {"max_running": 1},
    ],
    ids=str,
)
def test_the_text_so_far_as_guess_changes_no_answer(executor, settings):
    with engine_of(executor, **ON, **settings) as engine:
        assert_same(serve(engine, REQUESTS), plain(executor))
        engine.check()
        assert_same(serve(engine, REQUESTS), plain(executor))  # now out of the cache
        engine.check()
        counts = engine.stats().counts
        assert 0 < counts.accepted_tokens < counts.drafted_tokens


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("draft_tokens", [1, 3, 8])
def test_half_right_guesses_change_no_answer_and_charge_what_was_made(
    executor, page_size, draft_tokens
):
    with engine_of(executor, page_size=page_size) as engine:
        core, made = engine._core, 0
        core._speculator = Oracle(core, plain(executor), draft_tokens=draft_tokens)
        charge = core.queue.made

        def counting(sequence):
            nonlocal made
            made += 1
            charge(sequence)

        core.queue.made = counting
        answers = serve(engine, REQUESTS)
        engine.check()
        assert_same(answers, plain(executor))
        assert_same(serve(engine, REQUESTS), plain(executor))  # out of what speculation left
        counts = engine.stats().counts
        assert (
            made
            == counts.output_tokens
            == 2 * sum(len(o.token_ids) for group in answers for o in group)
        )
        assert counts.accepted_tokens > 0.3 * counts.drafted_tokens > 0
        reasons = {o.finish_reason for group in answers for o in group}
        assert reasons == {"stop", "length"}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_preempted_with_guesses_is_uninterrupted(executor, page_size):
    with engine_of(executor, page_size=page_size) as engine:
        core = engine._core
        core._speculator = Oracle(core, plain(executor))
        engine._loop._inspect = lambda: None  # it would take back what is held
        held = core.placement.pool.allocate(core.placement.pool.num_free - 448 // page_size)
        assert_same(serve(engine, REQUESTS), plain(executor))
        counts = engine.stats().counts
        assert counts.preemptions > 0 and counts.accepted_tokens > 0
        core.placement.pool.free(held)
        engine.check()


def test_one_sequence_in_a_pool_it_fills_comes_to_its_end():
    one = request(10, 5, temperature=0, max_new_tokens=108)  # with its prompt, the whole context
    answers = []
    for settings in ({}, ON):
        with engine_of("native", context=128, **settings) as engine:
            pool = engine._core.placement.pool
            engine._loop._inspect = lambda: None  # it would take back what is held
            pool.allocate(pool.num_free - 32)
            answers.append(serve(engine, [one]))
            assert engine.stats().counts.preemptions == 0
    assert_same(*answers)
    assert len(answers[1][0][0].token_ids) == 108


def test_a_stream_has_a_piece_for_each_token():
    async def collect(engine, one):
        pieces, outputs = {}, {}
        async for delta in engine.stream(one):
            pieces.setdefault(delta.index, []).append(delta)
            if delta.output:
                assert delta.index not in outputs
                outputs[delta.index] = delta.output
        for index, output in outputs.items():
            told = pieces[index]
            assert "".join(d.text for d in told) == output.text
            assert tuple(d.token_ids for d in told if d.token_ids) == tuple(
                (token,) for token in output.token_ids
            )
        return [outputs[index] for index in sorted(outputs)]

    with engine_of("native") as engine:
        engine._core._speculator = Oracle(engine._core, plain("native"))
        groups = [
            asyncio.run(
                asyncio.wait_for(
                    collect(engine, dataclasses.replace(one, id=f"{i}-stream")), WAIT_S
                )
            )
            for i, one in enumerate(REQUESTS)
        ]
        assert engine.stats().counts.accepted_tokens > 0
    assert_same(groups, plain("native"))


def test_new_weights_between_two_steps_take_effect_at_the_same_token():
    one = request(10, 5, temperature=0.8, max_new_tokens=40)

    def answer(answers):
        with engine_of("native") as engine:
            core, step = engine._core, engine._core.step
            if answers:
                core._speculator = Oracle(core, answers, wall=10)

            def updating():
                made = [len(draft.token_ids) for draft in core._drafts.values()]
                if made == [10] and engine._adapters.base_version != 7:
                    engine._adapters.load_base(tiny_weights(seed=3), 7)
                return step()

            core.step = updating
            found = serve(engine, [one])
            engine.check()
            return found, engine.stats().counts.accepted_tokens

    first, _ = answer(None)
    second, accepted = answer(first)
    assert accepted > 5
    assert_same(second, first)
    segments = [(s.version, s.num_tokens) for s in second[0][0].weight_versions]
    assert segments == [(0, 10), (7, 30)]


def test_it_can_be_turned_on_and_off_while_serving():
    with engine_of("native") as engine:
        counts = []
        for speculation in ("none", "ngram", "none"):
            engine.apply_settings(speculation=speculation, ngram_min=1, speculate_up_to=64)
            assert_same(serve(engine, REQUESTS), plain("native"))
            counts.append(engine.stats().counts)
    assert counts[0].drafted_tokens == 0 < counts[1].drafted_tokens == counts[2].drafted_tokens
    assert counts[1].steps < 2 * counts[0].steps


def test_a_logit_that_is_no_number_ends_a_guessed_run_where_it_would_have_ended():
    one = request(10, 5, temperature=0, max_new_tokens=30)
    with engine_of("native") as engine:
        answers = serve(engine, [one])
        core = engine._core
        core._speculator = Oracle(core, answers)
        choose = core._sampler.choose

        def failing(logits, indices, rows):
            chosen = choose(logits, indices, rows)
            return [None if len(r.output) == 12 else c for r, c in zip(rows, chosen)]

        core._sampler.choose = failing
        (failed,) = serve(engine, [one])[0]
        engine.check()
    assert failed.finish_reason == "error" and "not finite" in failed.error
    assert failed.token_ids == answers[0][0].token_ids[:12]
