"""Word problems and contest problems: answers checked by other means, forms as skyrl-gym's."""

import re

import pytest

from evolute.envs import make_task, validate
from evolute.envs.maths import is_right, normalised
from evolute.envs.maths.word_problems import answer_of
from evolute.envs.step import read_step
from evolute.types import ConfigError

NAMES = (
    "word-problems", "word-problems?steps=1&size=9&turns=4", "word-problems?steps=8&size=1000",
    "contest-maths", "contest-maths?tier=2", "contest-maths?tier=3",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_gold_earns_one_and_splits_share_none(name):
    task = make_task(name)
    validate(task, 20)
    train, heldout = task.problems("train", 60), task.problems("heldout", 30)
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert train == task.problems("train", 60)


def test_the_story_adds_up():
    """Every sum of a solution holds, and each begins with what the one before gave."""
    for problem in make_task("word-problems?steps=4-6").problems("train", 80):
        has = int(re.search(r" has (\d+) ", problem.id)[1])
        *sums, last = problem.gold.split("\n")
        for line in sums:
            for one in line.split(", "):
                left, sign, right, result = re.fullmatch(
                    r"(\d+) ([-+*/]) (\d+) = (\d+)", one
                ).groups()
                value = {
                    "+": int.__add__,
                    "-": int.__sub__,
                    "*": int.__mul__,
                    "/": int.__floordiv__,
                }
                assert value[sign](int(left), int(right)) == int(result)
            assert line.split(", ")[-1].split()[0] == str(has) or " * " in line.split(", ")[0]
            has = int(result)
        assert last == f"#### {has}" and has >= 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so #### 14", "14"),
        ("#### 1,234", "1234"),
        ("####14", "14"),
        ("#### $14.00", "14"),
        ("#### -3", "-3"),
        ("#### 007", "7"),
        ("#### 2.50", "2.50"),
        ("#### 3\n#### 4", "4"),
        ("#### 14.", "14"),
        ("14", None),
        ("### 14", None),
        ("#### many", None),
    ],
)
def test_the_answer_behind_the_marks(text, answer):
    assert answer_of(text) == answer


def test_several_tries_earn_as_in_skyrl_gym():
    task = make_task("word-problems?turns=4")
    problem = task.problems("train", 1)[0]

    def play(*actions):
        env = task.make(problem)
        env.init(problem.messages)
        return [read_step(env.step(action)) for action in actions]

    wrong, none, right = play("#### 999999", "hm", problem.gold)
    assert (wrong.reward, wrong.done) == (0.05, False) and (none.reward, none.done) == (0.0, False)
    assert (right.reward, right.done, right.metadata["accuracy"]) == (1.0, True, 1.0)
    steps = play(*["#### 999999"] * 4)
    assert [s.done for s in steps] == [False, False, False, True]
    assert steps[-1].metadata["accuracy"] == 0.0 and sum(s.reward for s in steps) == 0.2
    assert "last try" in steps[2].observations[0]["content"]
    alone = make_task("word-problems")
    env = alone.make(alone.problems("train", 1)[0])
    assert read_step(env.step("#### 999999")).reward == 0.0


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        (r"$x = \frac12$", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\dfrac{3}{4}", r"\frac{3}{4}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("1,234", "1234"),
        ("12,345,678.5", "12345678.5"),
        ("1,2", "1,2"),
        ("the area is 5 units", "areais5"),
        (r"45^\circ", "45"),
        (r"45^{\circ}", "45"),
        (r"30\%", "30"),
        (r"\$18.90", "18.90"),
        (r"12 \text{ dollars}", "12"),
        ("5.", "5"),
        (r"\text{east}", "east"),
        (r"(1,\ 2)", "(1,2)"),
    ],
)
def test_answers_without_their_dress(answer, plain):
    assert normalised(answer) == plain


@pytest.mark.parametrize(
    ("solution", "gold", "right"),
    [
        ("Answer: 42", "42", True),
        ("answer : 042.", "42", True),
        ("Answer: $42$", "42", True),
        ("Answer: 41\nAnswer: 42", "42", True),
        ("Answer: 42\nAnswer: 41", "42", False),
        ("Answer: 42<|im_end|>", "42", True),
        ("42", "42", False),
        ("Answer: 42" + "." * 400, "42", False),
        (r"Answer: \frac12", r"\frac{1}{2}", True),
        ("Answer:", "42", False),
        ("Answer: " + "9" * 5000, "42", False),
    ],
)
def test_the_last_answer_line_counts(solution, gold, right):
    assert is_right(solution, gold) == right


def test_a_contest_earns_plus_or_minus_one():
    task = make_task("contest-maths")
    problem = task.problems("train", 1)[0]
    for action, reward in ((problem.gold, 1.0), ("Answer: -1", -1.0), ("", -1.0)):
        step = read_step(task.make(problem).step(action))
        assert (step.reward, step.done) == (reward, True)


def test_contest_answers_hold():
    """The remainders and divisors among them, counted by other means."""
    seen = 0
    for problem in make_task("contest-maths?tier=2").problems("train", 150):
        answer = int(problem.gold.removeprefix("Answer: "))
        assert 0 <= answer <= 999
        if found := re.match(
            r"Find the remainder when (\d+)\^(\d+) is divided by (\d+)", problem.id
        ):
            base, exponent, modulus = map(int, found.groups())
            assert base**exponent % modulus == answer
            seen += 1
        if found := re.match(r"How many positive divisors does (\d+) have", problem.id):
            assert sum(int(found[1]) % k == 0 for k in range(1, int(found[1]) + 1)) == answer
            seen += 1
        if found := re.match(r"How many paths lead from .0, 0. to .(\d+), (\d+).", problem.id):
            right, up = map(int, found.groups())
            row = [1] * (right + 1)
            for _ in range(up):
                for k in range(1, right + 1):
                    row[k] += row[k - 1]
            assert row[-1] == answer
            seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "name",
    [
        "word-problems?steps=9",
        "word-problems?steps=3-2",
        "word-problems?steps=x",
        "contest-maths?tier=4",
    ],
)
def test_options_out_of_range_are_told(name):
    with pytest.raises(ConfigError):
        make_task(name)
