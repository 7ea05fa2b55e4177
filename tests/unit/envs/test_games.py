"""Word games and grids, against plain definitions of their rules."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs import make_task, validate
from evolute.envs.games import marks
from evolute.envs.games.grid import find, shortest
from evolute.envs.games.vocabulary import words_of
from evolute.envs.step import read_step
from evolute.types import ConfigError, Problem

NAMES = (
    "wordle", "wordle?letters=4&options=4&turns=2", "wordle?letters=6&options=30", "hangman",
    "hangman?letters=4&shown=2&lives=1", "grid", "grid?size=3&walls=0",
    "grid?size=12&walls=30&view=2", "grid?size=6&pits=20&turns=3",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_gold_earns_one_and_splits_share_none(name):
    task = make_task(name)
    validate(task, 30)
    train, heldout = task.problems("train", 30), task.problems("heldout", 8)
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert train == task.problems("train", 30)
    if "grid" not in name:
        assert not {p.gold for p in train} & {p.gold for p in heldout}


def play(task, problem, *actions):
    env = task.make(problem)
    env.init(problem.messages)
    steps = []
    for action in actions:
        steps.append(read_step(env.step(action)))
        if steps[-1].done:
            break
    env.close()
    return steps


WORD = st.text(alphabet="abc", min_size=5, max_size=5)


@given(WORD, WORD)
def test_marks_are_wordles(secret, guess):
    found = marks(secret, guess)
    for s, g, mark in zip(secret, guess, found):
        assert (mark == "G") == (s == g)
    for letter in set(guess):
        marked = sum(m != "-" for g, m in zip(guess, found) if g == letter)
        assert marked == min(Counter(secret)[letter], Counter(guess)[letter])
    for letter in set(guess):  # from the left
        rest = [m for g, m in zip(guess, found) if g == letter and m != "G"]
        assert rest == sorted(rest, reverse=True)


def test_a_word_is_found_by_its_marks():
    task = make_task("wordle?options=8&turns=8")
    for problem in task.problems("train", 20):
        left = problem.messages[0]["content"].split("one of: ")[1].split(".")[0].split(", ")
        assert problem.gold in left and set(left) <= set(words_of(5, "train"))
        env = task.make(problem)
        env.init(problem.messages)
        for _ in range(8):
            guess = left[0]
            step = read_step(env.step(f"I say {guess.upper()}!"))
            if step.done:
                break
            told = step.observations[0]["content"].split("\n")[1].replace(" ", "")
            left = [w for w in left if marks(w, guess) == told]
        assert step.reward == 1.0
        assert env.get_metrics()["bad_guesses"] == 0.0


def test_guesses_run_out():
    task = make_task("wordle?turns=2")
    problem = task.problems("train", 1)[0]
    steps = play(task, problem, "no", "zzzzz")
    assert [s.done for s in steps] == [False, True] and steps[-1].reward == 0.0
    assert "no word of 5 letters" in steps[0].observations[0]["content"]


def test_hangman_opens_letters_and_counts_mistakes():
    task = make_task("hangman?lives=2")
    problem = task.problems("train", 1)[0]
    letters = list(dict.fromkeys(problem.gold))
    steps = play(task, problem, *letters)
    assert len(steps) == len(letters) and steps[-1].reward == 1.0
    assert steps[0].observations[0]["content"].startswith("Yes.")
    absent = next(c for c in "zqxjkvw" if c not in problem.gold)
    steps = play(task, problem, absent, absent)
    assert len(steps) == 2 and steps[-1].reward == 0.0
    assert "1 mistakes left" in steps[0].observations[0]["content"]
    steps = play(task, problem, letters[0], letters[0], "no such")
    assert "was there before" in steps[1].observations[0]["content"]


def test_a_grid_is_walked_by_its_rules():
    task = make_task("grid?size=3&walls=0&turns=2")
    problem = Problem("S.G\n...\n...", (), "right right", {"grid": "S.G\n...\n..."})
    steps = play(task, problem, "go up", "right, RIGHT")
    assert "A wall stops you going up" in steps[0].observations[0]["content"]
    assert "@.G" in steps[0].observations[0]["content"] and steps[1].reward == 1.0
    assert play(task, problem, "", "right")[-1].reward == 0.0
    assert play(task, problem, "right right left left")[-1].reward == 1.0  # it ends at the goal


def test_a_pit_ends_the_game():
    task = make_task("grid?size=3&walls=0&pits=30&turns=9")
    for problem in task.problems("train", 40):
        rows = problem.id.split("\n")
        r, c = find(rows, "S")
        for move, (down, right) in {
            "up": (-1, 0),
            "down": (1, 0),
            "left": (0, -1),
            "right": (0, 1),
        }.items():
            y, x = r + down, c + right
            if 0 <= y < 3 and 0 <= x < 3 and rows[y][x] == "O":
                (step,) = play(task, problem, move)
                assert step.done and step.reward == 0.0


def test_gold_paths_are_shortest_and_views_hide():
    task = make_task("grid?size=5&view=1")
    for problem in task.problems("train", 20):
        rows = problem.id.split("\n")
        (r, c), (y, x) = find(rows, "S"), find(rows, "G")
        path = problem.gold.split()
        assert len(path) >= abs(r - y) + abs(c - x) and path == shortest(rows)
        shown = problem.messages[0]["content"].split("\n")[1:6]
        assert ("G" in "".join(shown)) == (max(abs(r - y), abs(c - x)) <= 1)


@pytest.mark.parametrize(
    "name",
    ["wordle?letters=9", "hangman?lives=0", "grid?walls=99", "grid?size=1", "wordle?tries=3"],
)
def test_options_out_of_range_are_told(name):
    with pytest.raises(ConfigError):
        make_task(name)


def test_a_small_family_says_how_many_it_has():
    with pytest.raises(ConfigError, match="has only"):
        make_task("wordle").problems("train", 5000)
