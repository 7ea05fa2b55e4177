import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.envs import make_task, validate
from evolute.envs.base import split_of
from evolute.envs.gym_task import answer_forms, gym_task
from evolute.types import ConfigError, RewardError

FAMILIES = [  # text families, small enough to be answered in a line
    "base_conversion",
    "basic_arithmetic?min_terms=2&max_terms=2&min_digits=1&max_digits=2",
    "binary_alternation",
    "bitwise_arithmetic",
    "calendar_arithmetic",
    "chain_sum?min_terms=2&max_terms=2&max_digits=2",
    "coin_flip",
    "complex_arithmetic",
    "count_bits",
    "countdown?min_numbers=3&max_numbers=3",
    "decimal_arithmetic",
    "decimal_chain_sum?max_terms=2",
    "dice",
    "emoji_mystery",
    "fraction_simplification",
    "gcd?max_numbers=2",
    "graph_color?min_num_vertices=6&max_num_vertices=6",
    "gsm_symbolic",
    "lcm?max_numbers=2",
    "leg_counting?max_animals=3",
    "letter_counting?min_words=2&max_words=4",
    "number_sequence",
    "number_sorting?max_numbers=4",
    "prime_factorization?max_value=100",
    "products?max_terms=2&max_digits=2",
    "propositional_logic",
    "sentence_reordering",
    "simple_equations",
    "spell_backward?max_word_len=5",
    "string_manipulation",
    "word_sorting?max_words=4",
]
BROKEN = {  # family -> what is said of it
    "boxnet": "gives no answer to its own problems",
    "game_of_life_halting": "gives 'no idea' a reward of 1.0",
    "composite": "Must specify at least one dataset",
}


def gym(name):
    return make_task(f"reasoning-gym:{name}")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_validates_itself(name):
    validate(gym(name), 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_the_same_problems_again(name):
    first, again = (gym(name).problems("train", 20, seed=3) for _ in range(2))
    assert [(p.id, p.gold) for p in first] == [(p.id, p.gold) for p in again]


@pytest.mark.parametrize("name", BROKEN)
def test_a_family_whose_verifier_is_of_no_use_is_refused(name):
    with pytest.raises(ConfigError, match=BROKEN[name]):
        gym(name).problems("train", 1)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([f"reasoning-gym:{n}" for n in FAMILIES] + ["addition-2", "sort-letters"]),
    train_seed=st.integers(0, 50),
    heldout_seed=st.integers(0, 50),
)
def test_training_and_heldout_share_no_problem(name, train_seed, heldout_seed):
    task = make_task(name)
    train = {p.id for p in task.problems("train", 60, train_seed)}
    held = {p.id for p in task.problems("heldout", 15, heldout_seed)}
    assert len(train) == 60 and len(held) == 15
    assert not train & held
    assert {split_of(id) for id in train} == {"train"}
    assert {split_of(id) for id in held} == {"heldout"}


def test_a_large_family_has_as_many_problems_as_asked():
    assert len(gym("chain_sum").problems("heldout", 1000)) == 1000


def test_a_small_family_says_how_many_it_has():
    with pytest.raises(ConfigError, match=r"has only \d+ problems in split 'train', 500 were"):
        gym("chain_sum?min_terms=2&max_terms=2&max_digits=1").problems("train", 500)


def test_options_reach_the_family():
    task = gym("chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1")
    for problem in task.problems("train", 50):
        assert problem.extras["entry"]["metadata"]["num_terms"] == 2
        assert problem.extras["entry"]["metadata"]["num_digits"] == 1
    assert task.name == "reasoning-gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1"


def test_the_length_of_an_answer_is_an_option_too():
    assert gym("word_sorting?max_new_tokens=64").max_new_tokens == 64
    assert gym("word_sorting").max_new_tokens == 24


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chain_sums", "Did you mean 'chain_sum'"),
        ("chain_sum?min_term=2", "no option 'min_term'. Options: allow_negation, max_digits, "),
        ("chain_sum?seed=2", "no option 'seed'"),
        ("chain_sum?min_terms=two", "min_terms of family 'chain_sum' is 'two'; .* type int"),
        ("chain_sum?min_terms=2.5", "of type int"),
        ("chain_sum?min_terms=2&min_terms=3", "given twice"),
        ("chain_sum?min_terms", "write option=value"),
        ("chain_sum?min_terms=9&max_terms=2", "max_terms must be >= min_terms"),
        ("chain_sum?allow_negation=maybe", "of type bool"),
        ("chain_sum?max_new_tokens=0", "must be at least 1"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_what_there_is(name, said):
    with pytest.raises(ConfigError, match=said):
        gym(name)


def test_values_take_the_type_of_the_option():
    from evolute.envs.gym_options import make_dataset, parse_name

    name = (
        "reasoning-gym:basic_arithmetic?allow_parentheses=false&operators=[%22%2B%22]&max_terms=3"
    )
    config = make_dataset(parse_name(name), 0, 1).config
    assert config.allow_parentheses is False and config.operators == ["+"] and config.max_terms == 3


def test_a_full_stop_is_forgiven_and_other_words_are_not():
    task = gym("chain_sum?answer=whole")
    (problem,) = task.problems("train", 1)
    rewards = [
        task.make(problem).step(text).reward
        for text in (f" {problem.gold}.\n", f"It is {problem.gold}", "")
    ]
    assert rewards == [1.0, 0.0, 0.0]


def test_what_the_verifier_cannot_read_is_wrong():
    task = gym("prime_factorization")  # its verifier raises on words
    (problem,) = task.problems("train", 1)
    assert task.make(problem).step("no idea").reward == 0.0


def test_a_verifier_that_fails_on_its_own_answer_gives_no_reward(monkeypatch):
    task = gym("chain_sum")
    (problem,) = task.problems("train", 1)

    class Broken:
        def score_answer(self, answer, entry):
            raise KeyError("digits")

    monkeypatch.setattr("evolute.envs.gym_task._verifier", lambda parts: Broken())
    with pytest.raises(RewardError, match="digits"):
        task.make(problem).step("5")


@pytest.mark.parametrize(
    ("action", "gold", "answer", "forms"),
    [
        ("20 + 56 = 76.", "76", "auto", ["76"]),
        ("It is 1,234,567", "1234567", "auto", ["1234567"]),
        ("first 3, then -4.5", "-4.5", "auto", ["-4.5"]),
        ("none", "76", "auto", []),
        ("76.", "76", "whole", ["76.", "76"]),
        ("Yes.", "Yes", "auto", ["Yes.", "Yes"]),
        ("it is 3", "three", "number", ["3"]),
    ],
)
def test_what_of_a_text_is_judged(action, gold, answer, forms):
    assert answer_forms(action, gold, answer) == forms


def test_the_last_number_is_judged_unless_the_whole_is_asked_for():
    for name, reward in (("chain_sum", 1.0), ("chain_sum?answer=whole", 0.0)):
        task = gym_task(f"reasoning-gym:{name}")
        (problem,) = task.problems("train", 1)
        assert task.make(problem).step(f"The result is {problem.gold}.").reward == reward
