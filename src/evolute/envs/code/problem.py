"""What does a method see of a programming problem?

    CodeProblem, Test              statement, how it is called, public tests
    code_problem(problem)          read from `Problem.extras["code"]`
    packed(code)                   written there, as plain JSON

Private tests are not in it: they stay with the task that grades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evolute.envs.sandbox.values import decode, encode
from evolute.types import ConfigError, Problem

Kind = Literal["function", "stdin"]


@dataclass(frozen=True, slots=True)
class Test:
    """Arguments (for kind "stdin" one text) and the value, or the printed text, they must give."""

    __test__ = False  # for pytest: no class of tests

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """`starter` is code that an answer begins with, or completes; "" where there is none.

    `entry_point` names the function, or "Class.method"; "" for kind "stdin".
    """

    id: str
    statement: str
    kind: Kind
    entry_point: str
    starter: str
    public: tuple[Test, ...]
    completes: bool = False  # an answer may go on where the starter ends


def code_problem(problem: Problem) -> CodeProblem:
    """Raises ConfigError for a problem that is not about programs."""
    packed_code = problem.extras.get("code")
    if not isinstance(packed_code, Mapping):
        raise ConfigError(
            f"problem {problem.id[:80]!r} is no programming problem; choose a task like "
            "list-programs or human-eval."
        )
    return CodeProblem(
        problem.id,
        str(packed_code["statement"]),
        packed_code["kind"],
        packed_code["entry_point"],
        packed_code["starter"],
        tuple(Test(tuple(decode(a)), decode(b)) for a, b in packed_code["public"]),
        packed_code["completes"],
    )


def packed(code: CodeProblem) -> dict[str, Any]:
    """Plain JSON, for `Problem.extras["code"]`."""
    return {
        "statement": code.statement,
        "kind": code.kind,
        "entry_point": code.entry_point,
        "starter": code.starter,
        "public": [[encode(list(t.arguments)), encode(t.expected)] for t in code.public],
        "completes": code.completes,
    }
