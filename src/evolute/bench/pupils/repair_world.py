"""A repository of one function with a bug: look, mend, hand in."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evolute.bench.pupils.pupil import written
from evolute.bench.pupils.world import Calls, Talk
from evolute.envs.code.list_operations import OPERATIONS
from evolute.envs.repair.repository import MODULES, NOUNS, PACKAGES, VERBS
from evolute.envs.repair.task import repository_of
from evolute.envs.sandbox.session import FOLDER
from evolute.envs.tools.shown import numbered
from evolute.types import Problem

GIVES_UP, BOTCHES = 0.35, 0.3  # hands in without an edit; mends it in another wrong way
WHERE = re.compile(r"The function is in (\S+), and the mistake is in it\.")


def repair(problem: Problem, source: random.Random, told: str) -> Calls:
    """View the file, write what the docstring says, finish."""
    where = WHERE.search(told)
    assert where is not None, "the issue does not say where the function is"
    how = source.random()
    seen = yield ("editor", {"command": "view", "path": where[1]})
    if how >= GIVES_UP:
        edit = _edit(where[1], seen, source if how < GIVES_UP + BOTCHES else None)
        if edit["old_str"] != edit["new_str"]:
            yield ("editor", edit)
    yield ("finish", {})


def mend(task: Any, problems: Sequence[Problem], source: random.Random) -> Talk:
    """A file as the editor shows it, and the right edit."""
    repository = repository_of(problems[0], task.shape)
    path = f"{repository.package}/{repository.buggy.module}.py"
    seen = numbered(repository.files()[path].splitlines())
    told = WHERE.search(problems[0].messages[0]["content"])
    assert told is not None, "the issue does not say where the function is"
    return [(f"{told[0]}\n{seen}", written("editor", _edit(path, seen, None)))]


def repair_phrases() -> Iterable[str]:
    view = written("editor", {"command": "view", "path": "P"})
    edit = written("editor", {**_replacement("P"), "old_str": "O", "new_str": "N"})
    yield view.partition('P"')[0]
    yield from re.split(r"(?<=\")[PON](?=\")", edit)[:-1]
    yield from (written("finish", {}), "editor", "finish", ".py is edited:\n", ".py")
    yield from ("The Python package `", "` in ", FOLDER, " has a bug. `", "(", "[", "]")
    yield from (")` gives ", "; by its docstring it should give ", ".\nThe function is in ")
    yield from ("The function is in ", "xs", ", ", ", and the mistake is in it.\n")
    yield "Mend the function so that it does what its docstring says, then call finish."
    yield from ('"""Functions on ', ': lists of whole numbers in, lists out."""\n', "def ")
    yield from ("(xs):\n", '    """', '."""\n', "; then ", "    xs = ", "\\n    xs = ")
    yield "    return xs"
    yield from (f"     {number}\t" for number in range(1, 10))
    yield from (*PACKAGES, *MODULES, *(f"{verb}_" for verb in VERBS), *NOUNS)
    for one in OPERATIONS.values():
        yield from (one.phrase, one.phrase[0].upper() + one.phrase[1:], one.expression)
        yield from ([one.mistake] if one.mistake else [])


# -- internals ---------------------------------------------------------------


def _edit(path: str, seen: str, botched: random.Random | None) -> dict[str, str]:
    """What the docstring in a shown file asks for, in the place of what the function does; with
    `botched` one step of it is another."""
    code = re.findall(r"^ *\d+\t(    xs = .+)$", seen, re.MULTILINE)
    said = re.search(r'    """(.+)\."""', seen)
    assert said is not None and code, "the file shows no function"
    steps = [_step(one) for one in said[1].split("; then ")]
    if botched:
        steps[botched.randrange(len(steps))] = botched.choice(sorted(OPERATIONS))
    right = [f"    xs = {OPERATIONS[step].expression}" for step in steps]
    return {**_replacement(path), "old_str": "\n".join(code), "new_str": "\n".join(right)}


def _replacement(path: str) -> dict[str, str]:
    return {"command": "str_replace", "path": path}


def _step(said: str) -> str:
    """The operation that a docstring names."""
    return next(n for n, one in OPERATIONS.items() if one.phrase == said[0].lower() + said[1:])
