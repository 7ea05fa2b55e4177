"""Any prompt, any sampling: an engine that guesses gives the answer of one that does not."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.engine import Engine
from evolute.models import load_model
from evolute.types import SamplingParams

TINY = load_model("tiny")
SMALL = {"page_size": 4, "memory_mb": 4, "num_threads": 1}


@pytest.fixture(scope="module")
def engines():
    on = {"speculation": "ngram", "draft_tokens": 5, "ngram_min": 1, "speculate_up_to": 16}
    with Engine(TINY, **SMALL) as plain, Engine(TINY, **SMALL, **on) as guessing:
        yield plain, guessing
        counts = guessing.stats().counts
        assert counts.accepted_tokens > 100
        assert counts.steps < plain.stats().counts.steps


@st.composite
def prompts(draw):
    """Words of a few tokens, repeated in some order."""
    words = draw(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=5), min_size=1))
    order = draw(st.lists(st.sampled_from(words), min_size=1, max_size=12))
    return [token for word in order for token in word]


samplings = st.builds(
    SamplingParams,
    max_new_tokens=st.integers(1, 30),
    min_new_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.2, 0.7, 1.3]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 2, 20]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 0.4]),
    presence_penalty=st.sampled_from([0.0, 0.6]),
    logit_bias=st.sampled_from([{}, {65: 12.0}, {65: 9.0, 66: 9.0, 67: 9.0}]),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 3),
    stop=st.sampled_from([(), ("AB",), ("AAAAA", "CB")]),
    stop_regex=st.sampled_from([(), ("A{3}B", "[a-z]{2}")]),
    stop_token_ids=st.sampled_from([(), (66,), (67, 68)]),
    ignore_eos=st.booleans(),
    include_stop=st.booleans(),
    top_logprobs=st.integers(0, 2),
    regex=st.sampled_from([None, None, None, "A+B[ab]{3,9}"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=st.lists(prompts(), min_size=1, max_size=3), sampling=samplings)
def test_answers_are_the_same_with_guesses(engines, items, sampling):
    plain, guessing = (engine.generate(items, sampling) for engine in engines)
    engines[1].check()
    assert len(plain) == len(guessing) == len(items) * sampling.n
    for one, two in zip(plain, guessing):
        assert one.token_ids == two.token_ids
        assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
        assert one.matched_stop == two.matched_stop
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
        assert [[t.token_id for t in at] for at in one.top_logprobs] == [
            [t.token_id for t in at] for at in two.top_logprobs
        ]
