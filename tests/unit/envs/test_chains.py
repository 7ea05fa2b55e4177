"""Chains of definitions: generated, read back, graded, refused."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs import make_task, validate
from evolute.envs.chains import Chain, Definition, compute, draw_chain, grade_chain, read_chain
from evolute.types import ConfigError


def test_a_chain_by_hand():
    text = "Work mod 10. b = a + 9; x = b * 3; a = 4; c = b - 5. What is c?"
    chain = read_chain(text)
    assert chain.question == text
    assert [d.name for d in chain.path] == ["a", "b", "c"]
    assert chain.values == {"a": 4, "b": 3, "c": 8}
    assert compute(2, "-", 5, 10) == 7


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 8), st.sampled_from([2, 10, 97]))
def test_drawn_chains_have_what_was_asked_and_are_read_back(seed, steps, traps, modulus):
    chain = draw_chain(random.Random(seed), (steps, steps), (traps, traps), modulus)
    assert len(chain.path) == steps and len(chain.definitions) == steps + traps
    assert read_chain(chain.question) == chain
    assert all(0 <= value < modulus for value in chain.values.values())
    assert len({d.name for d in chain.definitions}) == steps + traps


def test_the_task_is_valid_and_its_splits_share_nothing():
    task = make_task("chain-with-traps?steps=2-4&traps=1&modulus=10")
    validate(task)
    train, held = (task.problems(split, 50) for split in ("train", "heldout"))
    assert not {p.id for p in train} & {p.id for p in held}
    assert task.problems("train", 50) == train
    for problem in train:
        chain = read_chain(problem.messages[0]["content"])
        assert 2 <= len(chain.path) <= 4 and str(chain.values[chain.asked]) == problem.gold


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("7", 1.0),
        ("the answer is 7, not 8", 0.0),
        ("<|begin_of_thought|> x = 7", 0.0),
        ("<|begin_of_thought|> 8 <|end_of_thought|><|begin_of_solution|> u = 7 ", 1.0),
        ("<|begin_of_solution|> 7 <|begin_of_solution|> none", 0.0),
        ("", 0.0),
    ],
)
def test_only_the_solution_counts(text, reward):
    assert grade_chain(text, "7") == reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("step=3", "Did you mean 'steps'"),
        ("steps=x", "LOW-HIGH"),
        ("steps=5-3", "low to high"),
        ("steps=0-3", "at least 1"),
        ("modulus=1", "at least 2"),
        ("steps=20&traps=10", "26 letters"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_task(f"chain-with-traps?{options}")


def test_other_texts_are_no_chains():
    for text in ("", "What is 2 + 2?", "Work mod 10. a = b. What is a?"):
        with pytest.raises(ValueError, match="no chain"):
            read_chain(text)
    assert str(Definition("a", "", "", 3)) == "a = 3"
    assert Chain((Definition("a", "", "", 13),), "a", 10).values == {"a": 3}
