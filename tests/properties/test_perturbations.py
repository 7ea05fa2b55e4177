"""Perturbations do what they say, whatever the trace: counts, multisets, what stays untouched."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evolute.envs.chains import draw_chain
from evolute.envs.walks import COUNTS, draw_walk, read_walk
from evolute.reasoning.demonstrations import perturb as module
from evolute.reasoning.demonstrations.chains import (
    Style,
    check_steps,
    demonstrate,
    wrong_demonstration,
)
from evolute.reasoning.demonstrations.perturb import (
    CONTENT,
    PERTURBATIONS,
    STRUCTURE,
    corrupt_digits,
    delete,
    derangement,
    drop_keywords,
    insert,
    is_reflection,
    perturb,
    shuffle,
    wrong_answers,
)
from evolute.reasoning.demonstrations.trace import (
    ROLES,
    Step,
    Trace,
    parse,
    read_row,
    render,
    row_of,
    training_row,
)
from evolute.reasoning.demonstrations.walks import (
    check_walk,
    demonstrate_walk,
    exercise,
    sums,
    wrong_walk,
)
from evolute.types import ConfigError

TEXTS = st.text("ab 1729.\n", min_size=1, max_size=30).map(str.strip).filter(bool)
STEPS = st.lists(st.builds(Step, st.sampled_from(ROLES), TEXTS), max_size=9).map(tuple)
TRACES = st.builds(
    Trace, st.just(({"role": "user", "content": "q"},)), STEPS, TEXTS, st.just("p"), st.just("d")
)
SHARES = st.one_of(st.sampled_from([0.0, 1 / 3, 0.67, 1.0]), st.floats(0, 1))
SEEDS = st.integers(0, 10_000).map(random.Random)
OTHER = Trace((), (Step("STEP", "foreign one"), Step("CHECK", "foreign two")), "0", "o", "e")


def wanted(trace, share):
    return round(share * len(trace.steps))


@given(TRACES, SHARES, SEEDS, st.booleans())
def test_shuffle_keeps_the_steps_and_moves_the_share(trace, share, rng, within_role):
    changed = shuffle(trace, share, rng, within_role=within_role)
    assert Counter(changed.steps) == Counter(trace.steps)
    assert (changed.solution, changed.prompt) == (trace.solution, trace.prompt)
    if within_role:
        assert [s.role for s in changed.steps] == [s.role for s in trace.steps]
    moved = sum(a != b for a, b in zip(changed.steps, trace.steps))
    assert moved <= max(wanted(trace, share), 2 if wanted(trace, share) else 0)


@given(st.integers(0, 9), SHARES, SEEDS)
def test_shuffle_leaves_no_chosen_step_where_it_was(count, share, rng):
    trace = Trace((), tuple(Step("STEP", f"s{i}") for i in range(count)), "x")
    moved = sum(a != b for a, b in zip(shuffle(trace, share, rng).steps, trace.steps))
    exact = wanted(trace, share)
    assert abs(moved - exact) <= 1 and (moved == exact or exact == 1)


@given(st.lists(st.integers(0, 99), unique=True, max_size=8), SEEDS)
def test_a_derangement_moves_everything(places, rng):
    order = derangement(places, rng)
    assert sorted(order) == sorted(places)
    assert len(places) < 2 or all(a != b for a, b in zip(order, places))


def test_derangements_are_equally_likely():
    rng = random.Random(0)
    counts = Counter(tuple(derangement([0, 1, 2, 3], rng)) for _ in range(9000))
    assert len(counts) == 9 and min(counts.values()) > 850 and max(counts.values()) < 1150


@given(TRACES, SHARES, SEEDS)
def test_delete_drops_the_share_and_keeps_the_order(trace, share, rng):
    changed = delete(trace, share, rng)
    assert len(changed.steps) == len(trace.steps) - wanted(trace, share)
    rest = iter(trace.steps)
    assert all(any(step == other for other in rest) for step in changed.steps)
    assert changed.solution == trace.solution
    if share == 1:
        assert changed.steps == () and "\n\n\n" not in render(changed)


@given(TRACES, SHARES, SEEDS)
def test_padded_deletion_is_as_long(trace, share, rng):
    changed = delete(trace, share, rng, pad=True)
    assert len(changed.steps) == len(trace.steps)
    differ = [(a, b) for a, b in zip(changed.steps, trace.steps) if a != b]
    assert len(differ) <= wanted(trace, share)
    for filler, step in differ:
        assert filler.text in module.FILLER * 3 or filler.text.startswith(module.FILLER)
        assert abs(len(filler.text) - len(step.text)) <= 1


@given(TRACES, SHARES, SEEDS)
def test_insert_replaces_the_share_by_foreign_steps(trace, share, rng):
    own = replace(trace, problem_id="own")
    changed = insert(own, share, rng, [own, OTHER, replace(trace, steps=())])
    foreign = sum(step in OTHER.steps for step in changed.steps)
    assert len(changed.steps) == len(own.steps) and foreign == wanted(own, share)
    assert changed.solution == own.solution


def test_insert_of_a_domain_takes_only_those_and_refuses_an_empty_pool():
    mine = Trace((), (Step("STEP", "mine"),), "x", "a", "one")
    same, other = replace(OTHER, domain="one", problem_id="b"), replace(OTHER, domain="two")
    marked = replace(other, steps=(Step("STEP", "far"),))
    rng = random.Random(0)
    for _ in range(20):
        assert insert(mine, 1, rng, [same, marked], domain="other").steps[0].text == "far"
        assert insert(mine, 1, rng, [same, marked], domain="same").steps[0] in same.steps
    with pytest.raises(ConfigError, match="pool has none"):
        insert(mine, 1, rng, [mine])
    assert insert(mine, 0, rng, [mine]) == mine


@given(TRACES, SHARES, SEEDS, st.sampled_from(["thought", "solution", "both"]))
def test_digits_change_only_digits_and_only_where_told(trace, share, rng, within):
    changed = corrupt_digits(trace, share, rng, within=within)

    def shape(text):
        return "".join("#" if c.isdigit() else c for c in text)

    assert [shape(s.text) for s in changed.steps] == [shape(s.text) for s in trace.steps]
    assert shape(changed.solution) == shape(trace.solution)
    if within == "thought":
        assert changed.solution == trace.solution
    if within == "solution":
        assert changed.steps == trace.steps
    if share == 0:
        assert changed == trace


def test_the_share_of_digits_is_a_probability():
    trace = Trace((), (Step("STEP", "5" * 20_000),), "x")
    text = corrupt_digits(trace, 0.5, random.Random(1)).steps[0].text
    assert 0.43 < sum(c != "5" for c in text) / 20_000 < 0.47  # a tenth is drawn the same again


SENTENCES = st.sampled_from(
    ["Wait, that is 3.5 off.", "So it goes.", "Let me check: 1; 2.", "Fine", "no end\nline two. "]
)
PROSE = st.lists(SENTENCES, min_size=1, max_size=6).map(" ".join).map(str.strip)


@given(st.lists(st.builds(Step, st.just("STEP"), PROSE), max_size=5), SHARES, SEEDS)
def test_keywords_go_by_the_sentence_and_nothing_else_does(steps, share, rng):
    trace = Trace((), tuple(steps), "x")

    def sentences(t):
        found = [s for step in t.steps for s in module._SENTENCE.findall(step.text) if s]
        return [s.strip() for s in found]

    before = sentences(trace)
    assert "".join(module._SENTENCE.findall(trace.thought)) == trace.thought
    changed = drop_keywords(trace, share, rng)
    after = sentences(changed)
    marked = [s for s in before if is_reflection(s)]
    gone = Counter(before) - Counter(after)
    assert sum(gone.values()) == round(share * len(marked)) and not Counter(after) - Counter(before)
    assert all(is_reflection(s) for s in gone)
    if share == 1:
        assert not is_reflection(changed.thought)


def test_wrong_answers_come_from_the_pool_of_the_same_problem_first():
    trace = Trace((), (), "right", "p")
    pool = [Trace((), (), "wrong of p", "p"), *[Trace((), (), "of q", "q")] * 9]
    rng = random.Random(0)
    assert {wrong_answers(trace, 1, rng, pool).solution for _ in range(9)} == {"wrong of p"}
    assert wrong_answers(trace, 0, rng, pool) == trace
    assert wrong_answers(replace(trace, problem_id="r"), 1, rng, pool).solution != "right"
    with pytest.raises(ConfigError, match="pool of wrong traces"):
        wrong_answers(trace, 1, rng)


@given(st.lists(TRACES, min_size=1, max_size=4), st.sampled_from(sorted(PERTURBATIONS)), SHARES)
def test_a_set_is_perturbed_the_same_way_again_and_each_trace_by_itself(traces, kind, share):
    traces = [replace(t, problem_id=f"p{i}") for i, t in enumerate(traces)]
    pool = [*traces, OTHER]
    first = perturb(traces, kind, share, 7, pool)
    assert perturb(traces, kind, share, 7, pool) == first
    assert perturb(traces[::-1], kind, share, 7, pool)[::-1] == first
    assert set(STRUCTURE) | set(CONTENT) == set(PERTURBATIONS)


@pytest.mark.parametrize(
    ("kind", "share", "options", "message"),
    [
        ("shufle", 0.5, {}, "Did you mean 'shuffle'"),
        ("shuffle", 1.5, {}, "from 0 to 1"),
        ("shuffle", 0.5, {"pad": True}, "does not take"),
    ],
)
def test_a_perturbation_that_cannot_be_is_refused(kind, share, options, message):
    with pytest.raises(ConfigError, match=message):
        perturb([OTHER], kind, share, 0, **options)


# -- the teacher of chains ---------------------------------------------------


@given(SEEDS, st.sampled_from([2, 10, 100]))
def test_the_teachers_traces_are_right_coherent_and_written_so_that_they_are_read_back(
    rng, modulus
):
    chain = draw_chain(rng, (1, 10), (0, 4), modulus)
    trace = demonstrate(chain, rng)
    assert trace.solution == f"{chain.asked} = {chain.values[chain.asked]}"
    found = check_steps(trace.thought, chain)
    assert found.num_grounded == found.num_steps >= len(chain.path)
    slips = sum(step.role == "DOUBT" for step in trace.steps)
    assert found.num_steps - found.num_right == slips
    assert found.num_steps - found.num_true == slips
    args = (trace.prompt, trace.problem_id, trace.domain)
    assert parse(render(trace), *args, by="paragraphs") == trace
    assert read_row(row_of(trace)) == trace
    assert training_row(trace)["conversations"][-1]["value"] == render(trace)


@given(SEEDS, st.sampled_from(["slip", "random"]))
def test_wrong_traces_are_wrong_where_they_say(rng, how):
    chain = draw_chain(rng, (2, 8), (0, 3), 10)
    trace = wrong_demonstration(chain, rng, how)
    found = check_steps(trace.thought, chain)
    assert trace.solution != f"{chain.asked} = {chain.values[chain.asked]}"
    assert found.num_grounded == found.num_steps == len(chain.path)
    assert found.num_steps - found.num_right == (how == "slip")


@given(SEEDS)
def test_shuffled_chains_lose_their_coherence_and_corrupted_ones_their_arithmetic(rng):
    chain = draw_chain(rng, (8, 8), (2, 2), 10)
    trace = demonstrate(chain, rng)
    assume(shuffle(trace, 1.0, random.Random(0)).steps != trace.steps)
    shuffled = check_steps(shuffle(trace, 1.0, random.Random(1)).thought, chain)
    assert shuffled.coherence < 1


# -- the teacher of walks ----------------------------------------------------


@given(SEEDS, st.sampled_from([3, 10, 100]))
def test_traces_of_walks_are_right_coherent_and_read_back(rng, modulus):
    walk = draw_walk(rng, (1, 14), modulus)  # counts are words up to ten
    assert read_walk(walk.question) == walk
    trace = demonstrate_walk(walk, rng)
    told = {word for text in (walk.question, trace.thought) for word in text.split()}
    assert walk.times > 10 or COUNTS[walk.times] in told  # in words: digits are what is reckoned
    assert trace.solution == f"The end is {walk.values[-1]}"
    found = check_walk(trace.thought, walk)
    assert found.num_grounded == found.num_steps >= walk.times
    slips = sum(step.role == "DOUBT" for step in trace.steps)
    assert found.num_steps - found.num_right == found.num_steps - found.num_true == slips
    args = (trace.prompt, trace.problem_id, trace.domain)
    assert parse(render(trace), *args, by="paragraphs") == trace


@pytest.mark.parametrize("question", ["What is the end?", "Begin with 1, add 2 and take 3 in turn, "
                                      "some times, mod 10. What is the end?"])  # fmt: skip
def test_what_tells_of_no_walk_is_refused(question):
    with pytest.raises(ValueError, match="is no walk"):
        read_walk(question)


@given(SEEDS)
def test_sums_are_right_and_small_numbers_come_more_often(rng):
    numbers = Counter()
    for _ in range(40):
        steps = [step.text.rstrip(".").split() for step in sums(rng, 10).steps]
        assert all((int(a) + int(sign + b) - int(c)) % 10 == 0 for a, sign, b, _, c in steps)
        numbers.update(int(b) for _, _, b, _, _ in steps)
    assert set(numbers) <= set(range(1, 10)) and numbers[1] > 2 * numbers[8]


@given(SEEDS, st.sampled_from(["slip", "random"]))
def test_wrong_walks_are_wrong_where_they_say(rng, how):
    walk = draw_walk(rng, (1, 8), 10)
    assert wrong_walk(walk, rng, how).solution != f"The end is {walk.values[-1]}"
    trace = wrong_walk(walk, rng, how, Style(0.0, 0.0, 0.0))
    found = check_walk(trace.thought, walk)
    assert trace.solution != f"The end is {walk.values[-1]}"
    assert found.num_grounded == found.num_steps == walk.times
    assert found.num_steps - found.num_right == (how == "slip")


@given(SEEDS)
def test_shuffled_walks_lose_their_coherence_and_exercises_have_none_to_lose(rng):
    walk = draw_walk(rng, (6, 8), 10)
    trace = demonstrate_walk(walk, rng)
    assert check_walk(shuffle(trace, 1.0, rng).thought, walk).coherence < 1
    steps = exercise(rng, 10, 8).steps
    assert [s.role for s in steps] == ["PLAN", "STEP"] * (len(steps) // 2)
