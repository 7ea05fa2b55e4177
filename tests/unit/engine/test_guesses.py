"""Guesses are what brute force finds, bounded, and given up where they fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.engine import EngineConfig
from evolute.engine.scheduling import (
    Candidate,
    Limits,
    Placement,
    PolicySettings,
    Sequence,
    SpeculationSettings,
    Speculator,
    make_policy,
    next_step,
)
from evolute.engine.scheduling.speculation import CREDIT, PAUSE, NgramIndex
from evolute.types import ConfigError


def brute(tokens, low, high, count):
    """The longest end of `tokens` that occurred before, continued from its last occurrence."""
    for size in range(high, low - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                grown = list(tokens)
                for at in range(start + size, start + size + count):
                    grown.append(grown[at])
                return grown[len(tokens) :]
    return []


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    low=st.integers(1, 3),
    more=st.integers(0, 3),
    count=st.integers(1, 6),
    most=st.integers(1, 50),
)
def test_the_index_finds_what_brute_force_finds_after_every_token(tokens, low, more, count, most):
    index = NgramIndex(low, low + more)
    for end in range(1, len(tokens) + 1):
        while not index.read(tokens[:end], most):
            pass
        assert index.guess(tokens[:end], count) == brute(tokens[:end], low, low + more, count)


def test_a_long_prompt_is_read_in_parts():
    index = NgramIndex(1, 2)
    assert not index.read([1, 2, 3] * 4, 5)
    assert not index.read([1, 2, 3] * 4, 5)
    assert index.read([1, 2, 3] * 4, 5)
    assert index.guess([1, 2, 3] * 4, 4) == [1, 2, 3, 1]


def decoding(tokens=(1, 2, 3, 1, 2, 3, 1), prompt_len=3, most=50, **fields):
    sequence = Sequence(0, prompt_len, list(tokens), most, **fields)
    sequence.num_computed = len(tokens) - 1
    return sequence


def proposed(sequence, count=1, **settings):
    Speculator(SpeculationSettings(**settings)).propose([sequence] * count)
    return sequence.proposed


def test_only_a_decode_that_nothing_constrains_is_guessed():
    assert proposed(decoding()) == [2, 3, 1, 2]
    assert proposed(decoding(), draft_tokens=2) == [2, 3]
    assert proposed(decoding(most=7)) == [2, 3]  # four are made, one is made without a guess
    assert proposed(decoding(most=5)) == []
    assert proposed(decoding(is_constrained=True)) == []
    assert proposed(decoding(prompt_len=7)) == []
    assert proposed(decoding(), count=5) == []
    assert proposed(decoding(), count=5, up_to=5) == [2, 3, 1, 2]
    unfinished = decoding()
    unfinished.num_computed = 2
    assert proposed(unfinished) == []


def test_old_guesses_do_not_stay():
    sequence = decoding()
    sequence.proposed = [5]
    Speculator(None).propose([sequence])
    assert sequence.proposed == []


def test_who_guesses_badly_pauses_longer_each_time_until_it_does_well():
    speculator, sequence = Speculator(SpeculationSettings()), decoding(most=10_000)

    def grow_until_guessed():
        for count in range(10_000):
            speculator.propose([sequence])
            if sequence.proposed:
                return count
            sequence.tokens.append(sequence.tokens[-3])
            sequence.num_computed += 1
        raise AssertionError("it never guesses again")

    assert grow_until_guessed() == 0
    for _ in range(CREDIT // 4):
        speculator.judge(sequence, 4, 0)
    assert grow_until_guessed() == PAUSE
    for pause in (2 * PAUSE, 4 * PAUSE):
        for _ in range(2):
            speculator.judge(sequence, 4, 0)
        assert grow_until_guessed() == pause
    speculator.judge(sequence, 4, 4)
    for _ in range(CREDIT // 4):
        speculator.judge(sequence, 4, 0)
    assert grow_until_guessed() == PAUSE


def test_a_quarter_accepted_goes_on_for_ever():
    speculator, sequence = Speculator(SpeculationSettings()), decoding(most=10_000)
    speculator.propose([sequence])
    for _ in range(1000):
        speculator.judge(sequence, 4, 1)
    speculator.propose([sequence])
    assert sequence.proposed


def plan(sequences, waiting=(), *, budget=64, pages=10, page_size=4):
    queue = make_policy(PolicySettings("fcfs"))
    for sequence in waiting:
        queue.push(sequence)
    limits = Limits(budget, pages, page_size, 8)
    step = next_step(sequences, queue, lambda s: Candidate(s, 0, 0), limits)
    return [(c.num_tokens, c.num_drafted) for c in step.chunks]


def guessing(count=4, pages=2):
    """Seven of eight slots of its two pages are taken with the next token."""
    sequence = decoding()
    sequence.pages, sequence.proposed = list(range(pages)), [2, 3, 1, 2, 3, 1][:count]
    return sequence


def test_guesses_get_the_tokens_and_pages_that_are_left():
    assert plan([guessing()]) == [(5, 4)]
    assert plan([guessing(), guessing()]) == [(5, 4), (5, 4)]
    assert plan([guessing(), guessing()], budget=7) == [(5, 4), (2, 1)]
    assert plan([guessing()], budget=1) == [(1, 0)]
    assert plan([guessing()], pages=0) == [(2, 1)]  # the slot that its last page has left
    assert plan([guessing(), guessing()], pages=1) == [(5, 4), (2, 1)]
    assert plan([guessing(6)], pages=1) == [(6, 5)]


def test_prompts_and_newcomers_come_before_guesses():
    begun = Sequence(1, 20, list(range(20)), 4, num_computed=4, pages=[7])
    assert plan([guessing(), begun], budget=18) == [(2, 1), (16, 0)]
    newcomer = Sequence(2, 10, list(range(10)), 4)
    assert plan([guessing()], [newcomer], budget=13) == [(3, 2), (10, 0)]
    assert plan([guessing()], [newcomer], budget=8) == [(1, 0), (7, 0)]


def test_who_runs_no_more_has_no_guesses():
    placement, sequence = Placement(8, 4), Sequence(0, 3, [1, 2, 3], 5)
    placement.admit(sequence)
    sequence.proposed = [4]
    placement.release(sequence)
    assert sequence.proposed == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"draft_tokens": 0}, "engine.draft_tokens is 0"),
        ({"speculate_up_to": 0}, "engine.speculate_up_to is 0"),
        ({"ngram_min": 0}, "engine.ngram_min is 0"),
        ({"ngram_min": 5}, "engine.ngram_max is 4; it must be at least ngram_min, which is 5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, what):
    with pytest.raises(ConfigError, match=what):
        EngineConfig(speculation="ngram", **settings)
