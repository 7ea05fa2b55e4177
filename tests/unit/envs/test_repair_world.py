"""Repositories with a bug: generated truly, judged by values in a fresh sandbox."""

import asyncio
import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandboxes import needs_bwrap

from evolute.envs.base import split_of
from evolute.envs.repair.grading import changed, judge, patch_of
from evolute.envs.repair.repository import Shape, draw_repository
from evolute.envs.sandbox import Bubblewrap, shell
from evolute.envs.tools import make_tool_task
from evolute.envs.tools.contract import ToolContext
from evolute.envs.tools.registry import PlainAgent, play_calls

SHAPES = (Shape(), Shape(1, 1, 1), Shape(2, 4, 3), Shape(4, 3, 5))


def run(files, function, xs, package):
    """What the repository's own source gives, in this process: it is ours."""
    import sys
    import types

    names = {}
    for path, text in files.items():
        name = path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        names[name] = text
    saved = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == package
    }
    try:
        pending = sorted(names)
        for name in pending:
            sys.modules[name] = types.ModuleType(name)
        for _ in pending:  # imports go to earlier modules, whatever their names
            for name in pending:
                try:
                    exec(compile(names[name], name, "exec"), sys.modules[name].__dict__)
                except ImportError:
                    continue
        return getattr(sys.modules[f"{package}.{function.module}"], function.name)(list(xs))
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(saved)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SHAPES), st.sampled_from(["train", "heldout"]))
def test_tests_tell_what_the_source_gives(seed, shape, split):
    repository = draw_repository(random.Random(seed), shape, split)
    broken, mended = repository.files(), repository.files(is_mended=True)
    assert len(repository.functions) == shape.modules * shape.functions
    assert list(changed(broken, mended)) == [f"{repository.package}/{repository.buggy.module}.py"]
    tests = list(repository.tests())
    assert any(test.shows_bug for test in tests)
    for test in random.Random(seed).sample(tests, min(6, len(tests))):
        right = run(mended, test.function, test.xs, repository.package)
        assert right == test.expected
        assert (run(broken, test.function, test.xs, repository.package) != right) == test.shows_bug
    for function in repository.functions:
        if not any(step.endswith("()") for step in function.steps):
            assert split_of("/".join(function.steps)) == split
    symptom = repository.symptom()
    assert symptom.shows_bug and symptom.function is repository.buggy


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(alphabet="xy\n", max_size=12), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.text(alphabet="xy\n", max_size=12), max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_git_applies_the_patch(tmp_path_factory, before, after):
    before = {path: text for path, text in before.items() if text}
    after = {path: text for path, text in after.items() if text}
    folder = tmp_path_factory.mktemp("patch")
    for path, text in before.items():
        (folder / path).write_text(text)
    patch = patch_of(before, after)
    assert bool(patch) == (before != after)
    if patch:
        subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=folder, check=True)
    assert {p.name: p.read_text() for p in folder.iterdir()} == after


@needs_bwrap
def test_hostile_repositories_pass_no_tests():
    repository = draw_repository(random.Random(5), Shape(1, 2, 2), "train")
    tests = list(repository.tests())
    module = f"{repository.package}/{repository.functions[0].module}.py"
    files = repository.files(is_mended=True)
    hostile = {
        "right": files,
        "hang": files | {module: "while True: pass\n"},
        "exit": files | {module: "import os\nos._exit(0)\n"},
        "broken": files | {module: "def f(:\n"},
        "equal": files
        | {
            module: "class A(list):\n    def __eq__(self, other): return True\n"
            + "".join(f"def {f.name}(xs): return A()\n" for f in repository.functions)
        },
        "gone": {f"{repository.package}/__init__.py": ""},
        "escapes": files | {"../../../../tmp/x/y.py": "x = 1\n"},
    }

    async def main():
        sandbox = Bubblewrap(1)
        return {
            name: await judge(sandbox, tree, repository.package, tests)
            for name, tree in hostile.items()
            if name != "hang"
        }

    verdicts = asyncio.run(main())
    assert verdicts["right"].is_mended
    for name in ("exit", "broken", "gone"):
        assert verdicts[name].fixed == 0 and not verdicts[name].is_mended
    assert not verdicts["equal"].is_mended


@needs_bwrap
def test_what_an_agent_does_is_its_patch():
    task = make_tool_task("repair?modules=1&functions=2&steps=2")
    problem = task.problems("train", 1)[0]

    async def main():
        world = task.world(problem)
        await world.start()
        try:
            tools = {tool.schema["function"]["name"]: tool for tool in world.tools()}
            context = ToolContext(PlainAgent(), "t")
            nothing = await world.grade("")
            await tools["bash"].call(
                {"command": "echo x > notes.py; mkdir t; echo y > t/a.py"}, context
            )
            beside = await world.grade("")
            for name, arguments in task.gold_calls(problem)[:-1]:
                await tools[name].call(arguments, context)
            patch, right = await world.patch(), await world.grade(None)
            package = patch.split("a/")[1].split("/")[0]
            await world.session.run(shell(f"echo 'boom(' >> {package}/__init__.py"))
            spoilt = await world.grade("")
            return nothing, beside, patch, right, spoilt
        finally:
            await world.close()

    nothing, beside, patch, right, spoilt = asyncio.run(main())
    assert (nothing.reward, nothing.metrics["has_patch"]) == (0.0, 0.0)
    assert beside.metrics["has_patch"] == 0.0
    assert patch == problem.gold and right.is_right
    assert right.metrics == {"has_patch": 1.0, "fail_to_pass": 1.0, "pass_to_pass": 1.0}
    assert spoilt.reward == 0.0 and spoilt.metrics["pass_to_pass"] == 0.0


@needs_bwrap
def test_finishing_at_once_is_wrong_and_counted():
    task = make_tool_task("repair")
    problem = task.problems("heldout", 1)[0]
    grade = asyncio.run(play_calls(task.world(problem), [("finish", {})]))
    assert grade.reward == 0.0 and not grade.is_right


@pytest.mark.parametrize("told", ["symptom", "function", "line"])
@needs_bwrap
def test_an_issue_gives_away_as_much_as_it_is_told_to(told):
    task = make_tool_task(f"repair?told={told}")
    problem = task.problems("train", 1)[0]
    issue, bug = problem.messages[0]["content"], problem.gold
    path = bug.split("\n")[0].removeprefix("--- a/")
    assert (path in issue) == (told != "symptom")
    assert ("Replace\n" in issue) == (told == "line")
