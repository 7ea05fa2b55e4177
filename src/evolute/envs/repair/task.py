"""Mend a repository: an issue in words, tools, and tests that nobody sees.

    repair_task("repair?modules=3&functions=3&steps=2&told=symptom")    a ToolTask

`told` says how much the issue gives away: symptom (a call and what it should give), function (where
that is) or line (the line and what to write instead); `tools` is all or editor. The reward is 1
when every test passes in a fresh sandbox with the patch applied, also those that passed before. No
patch is a wrong answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from evolute.envs.puzzles.task import between, choice, read_options
from evolute.envs.repair.grading import changed, judge, patch_of
from evolute.envs.repair.repository import Repository, Shape, draw_repository
from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.session import FOLDER, FileRefused
from evolute.envs.tools.bash import Bash
from evolute.envs.tools.code_search import CodeSearch
from evolute.envs.tools.contract import Grade, Tool
from evolute.envs.tools.editor import Editor
from evolute.envs.tools.finish import Finish
from evolute.envs.tools.worlds import Call, SessionWorld
from evolute.types import ConfigError, Message, Problem

FAMILY = "repair"
DEFAULTS: dict[str, str | int] = {
    "modules": 3,
    "functions": 3,
    "steps": 2,
    "told": "symptom",
    "tools": "all",
}
PATIENCE = 400  # repositories drawn without a new problem


@dataclass(frozen=True, slots=True)
class RepairTask:
    """Problems without end; a problem is its seed, so any process can make its world."""

    name: str
    shape: Shape
    told: str
    tools: str
    sandbox: Bubblewrap = field(repr=False)

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed. No function of one
        split is in the other. Raises ConfigError when there are fewer."""
        source = random.Random(f"{self.shape}/{split}/{seed}")
        found: dict[str, Problem] = {}
        vain = 0
        while len(found) < count:
            key = f"{split}/{source.getrandbits(48):012x}"
            problem = self._problem(key)
            vain = vain + 1 if problem.id in found else 0
            if vain > PATIENCE:
                raise ConfigError(
                    f"task {self.name!r} has only {len(found)} problems in split {split!r}, "
                    f"{count} were asked for; ask for fewer, or for more steps or functions."
                )
            found[problem.id] = problem
        return list(found.values())

    def world(self, problem: Problem) -> RepairWorld:
        """Raises ConfigError for a problem of another family."""
        return RepairWorld(self, problem, repository_of(problem, self.shape))

    def gold_calls(self, problem: Problem) -> Sequence[Call]:
        repository = repository_of(problem, self.shape)
        bug = repository.buggy
        old, new = (_body(repository, is_mended) for is_mended in (False, True))
        edit = {
            "command": "str_replace",
            "path": f"{repository.package}/{bug.module}.py",
            "old_str": old,
            "new_str": new,
        }
        return (("editor", edit), ("finish", {}))

    # -- internals ---------------------------------------------------------------

    def _problem(self, key: str) -> Problem:
        repository = draw_repository(random.Random(key), self.shape, key.partition("/")[0])
        issue = issue_of(repository, self.told)
        listing = "\n".join(
            text for path, text in repository.files().items() if not path.endswith("__init__.py")
        )
        gold = patch_of(repository.files(), repository.files(is_mended=True))
        message: Message = {"role": "user", "content": issue}
        return Problem(f"{issue}\n{listing}", (message,), gold, {"repair": key})


class RepairWorld(SessionWorld):
    """One repository in a sandbox of its own."""

    def __init__(self, task: RepairTask, problem: Problem, repository: Repository) -> None:
        self._before = repository.files()
        super().__init__(task.sandbox, {p: t.encode() for p, t in self._before.items()})
        self._task, self._problem, self._repository = task, problem, repository

    def instruction(self) -> Sequence[Message]:
        return self._problem.messages

    def tools(self) -> Sequence[Tool]:
        done = Finish(asks=False, description="Say that the bug is mended: ends the task.")
        editor = Editor(self.session)
        if self._task.tools == "editor":
            return (editor, done)
        return (Bash(self.session), editor, CodeSearch(self.session), done)

    async def patch(self) -> str:
        """What has been changed so far in the package, as a unified diff."""
        return patch_of(self._before, await self._after())

    async def grade(self, answer: str | None) -> Grade:
        """By the tests alone; `answer` plays no part."""
        try:
            after = await self._after()
        except FileRefused:  # more than a repository may hold
            return Grade(0.0, False, {"has_patch": 1.0})
        if not changed(self._before, after):
            return Grade(0.0, False, {"has_patch": 0.0})
        tests = list(self._repository.tests())
        verdict = await judge(self._task.sandbox, after, self._repository.package, tests)
        metrics = {
            "has_patch": 1.0,
            "fail_to_pass": verdict.fixed / verdict.num_failing,
            "pass_to_pass": verdict.kept / max(1, verdict.num_passing),
        }
        return Grade(float(verdict.is_mended), verdict.is_mended, metrics)

    async def _after(self) -> dict[str, str]:
        """The package's Python files: what else an agent leaves is no part of its patch."""
        files = await self.session.collect((".py",), most=2**21)
        inside = f"{self._repository.package}/"
        return {
            path: data.decode("utf-8", "surrogateescape")
            for path, data in files.items()
            if path.startswith(inside)
        }


def repair_task(name: str, sandbox: Bubblewrap) -> RepairTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, DEFAULTS)
    shape = Shape(
        between(FAMILY, options, "modules", 1, 6),
        between(FAMILY, options, "functions", 1, 8),
        between(FAMILY, options, "steps", 1, 5),
    )
    told = choice(FAMILY, options, "told", ("symptom", "function", "line"))
    tools = choice(FAMILY, options, "tools", ("all", "editor"))
    return RepairTask(name, shape, told, tools, sandbox)


def repository_of(problem: Problem, shape: Shape) -> Repository:
    """The problem's repository. Raises ConfigError for a problem of another family."""
    key = problem.extras.get("repair")
    if not isinstance(key, str) or "/" not in key:
        raise ConfigError(f"problem {problem.id[:80]!r} is none of {FAMILY!r}.")
    return draw_repository(random.Random(key), shape, key.partition("/")[0])


def issue_of(repository: Repository, told: str) -> str:
    """What the agent is told."""
    test, bug = repository.symptom(), repository.buggy
    got = repository.value(bug, test.xs, is_mended=False)
    lines = [
        f"The Python package `{repository.package}` in {FOLDER} has a bug. "
        f"`{bug.name}({list(test.xs)})` gives {got}; by its docstring it should give "
        f"{test.expected}.",
    ]
    path = f"{repository.package}/{bug.module}.py"
    if told != "symptom":
        lines.append(f"The function is in {path}, and the mistake is in it.")
    if told == "line":
        old, new = (_body(repository, is_mended) for is_mended in (False, True))
        lines.append(f"Replace\n{old}\nby\n{new}")
    lines.append("Mend the function so that it does what its docstring says, then call finish.")
    return "\n".join(lines)


# -- internals ---------------------------------------------------------------


def _body(repository: Repository, is_mended: bool) -> str:
    """The whole function: a shorter piece might stand in several places."""
    bug = repository.buggy
    text = repository.files(is_mended=is_mended)[f"{repository.package}/{bug.module}.py"]
    lines = text.splitlines()
    first = lines.index(f"def {bug.name}(xs):")
    last = next(k for k in range(first, len(lines)) if lines[k] == "    return xs")
    return "\n".join(lines[first : last + 1])
