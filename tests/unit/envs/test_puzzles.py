"""Puzzles: gold answers pass, near misses do not, options change the question."""

import pytest

from evolute.envs import make_task, task_names, validate
from evolute.envs.puzzles import PUZZLES, check_for
from evolute.envs.puzzles.game_of_24 import last_expression, reaches, read_hand, solve_24
from evolute.types import ConfigError, Problem

NAMES = [
    *sorted(PUZZLES),
    "game-of-24?target=36",
    "dates?form=iso",
    "shapes?digits=4",
    "table-questions?subject=cities&rows=8",
    "checkmate-in-one?notation=uci",
]


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_right_and_nonsense_is_not(name):
    validate(make_task(name), 6)


@pytest.mark.parametrize("name", [n for n in NAMES if "checkmate" not in n])
def test_problems_are_the_same_each_time_and_splits_share_none(name):
    task = make_task(name)
    train, heldout = task.problems("train", 40), task.problems("heldout", 40)
    assert [p.id for p in train] == [p.id for p in task.problems("train", 40)]
    assert not {p.id for p in train} & {p.id for p in heldout}


def test_names_are_listed():
    assert set(PUZZLES) <= set(task_names())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("game-of-24?goal=3", "no option 'goal'"),
        ("game-of-24?target=x", "whole number"),
        ("game-of-24?target=0", r"must lie in \[1, 1000\]"),
        ("game-of-24?target=24&target=36", "given twice"),
        ("game-of-24?24", "no option '24'"),
        ("dates?form=eu", "one of us, iso"),
        ("table-questions?rows=99", r"\[2, 10\]"),
    ],
)
def test_bad_options_are_named(name, said):
    with pytest.raises(ConfigError, match=said):
        make_task(name)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("8 / (3 - 8 / 3)", True),
        ("Answer: 8/(3-8/3) = 24", True),
        ("8 * 3 * (8 - 3) / 5", False),
        ("12 + 12", False),
        ("8 + 8 + 3 + 3", False),
        ("8 ** 3", False),
        ("8 / (3 - 3 - 0 * 8 / 8)", False),
        ("__import__('os')", False),
        ("24", False),
        ("((" * 40, False),
        ("8/(3-8/3)\nno, wait: 8+3*8/3", False),
    ],
)
def test_an_expression_is_judged_exactly(text, is_right):
    assert reaches(text, [3, 3, 8, 8], 24) is is_right


def test_solvable_hands_are_as_many_as_known():
    hands = [
        (a, b, c, d)
        for a in range(1, 11)
        for b in range(a, 11)
        for c in range(b, 11)
        for d in range(c, 11)
    ]
    solved = [hand for hand in hands if solve_24(hand, 24)]
    assert len(hands) == 715 and len(solved) == 566
    assert all(reaches(solve_24(hand, 24), hand, 24) for hand in solved[::20])


def test_a_hand_is_read_from_its_question():
    problem = make_task("game-of-24?target=36").problems("train", 1)[0]
    numbers, target = read_hand(problem.id)
    assert target == 36 and len(numbers) == 4 and numbers == sorted(numbers)
    assert read_hand("What is 3 + 4?") is None and last_expression("none here") is None


@pytest.mark.parametrize("name", ["game-of-24", "checkmate-in-one", "reasoning-gym:word_sorting"])
def test_checks_agree_with_the_world(name):
    task = make_task(name)
    for problem in task.problems("train", 5):
        check = check_for(problem)
        for answer in (problem.gold, "no idea", "a1", "1 + 2 * 3", "b, a"):
            env = task.make(problem)
            env.init(problem.messages)
            assert check(answer) == (env.step(answer).reward >= 1), answer


def test_what_cannot_be_checked_has_no_check():
    assert check_for(make_task("dates").problems("train", 1)[0]) is None
    assert check_for(Problem("q", (), "gold", {"check": "game-of-24"})) is None


def test_any_mating_move_counts():
    from evolute.envs.puzzles.chess_mates import mates

    ladder = "7k/R7/1R6/8/8/8/8/K7 w - - 0 1"
    assert mates("Rb8#", ladder) and mates("I play b6b8", ladder) and mates("Answer: Rb8", ladder)
    assert not mates("Ra8+", ladder) and not mates("Rh1", ladder) and not mates("", ladder)
    assert not mates("Rb8# or Ra8+", ladder)


def test_dates_agree_with_counting_days():
    from datetime import date, timedelta

    for problem in make_task("dates?form=iso").problems("train", 60):
        words = problem.id.split()
        start = next(w.rstrip(".") for w in words if w.count("-") == 2)
        unit = next(u for u in ("day", "week", "month") if f" {u}" in problem.id)
        if unit == "month":
            continue
        count = int(words[words.index("is", words.index("date")) + 1])
        days = count * (7 if unit == "week" else 1)
        sign = 1 if "later" in problem.id else -1
        expected = date.fromisoformat(start) + sign * timedelta(days)
        assert problem.gold == expected.isoformat()


def test_shapes_count_lines_not_commands():
    from evolute.envs.puzzles.shapes import POLYGONS

    for problem in make_task("shapes").problems("train", 120):
        path = problem.id.split('d="')[1].split('"')[0]
        if problem.gold in POLYGONS.values():
            assert POLYGONS[path.count("L")] == problem.gold
