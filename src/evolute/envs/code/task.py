"""Programming problems as a world: an answer is right when its program passes every private test.

    CodeTask(name, draw, grade, sandbox)     a Task
    passes_all(sandbox, code, source, tests) do all tests hold? (await)

The program runs in a sandbox; expected values stay outside it wherever the tests are values.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.envs.code.compare import same, same_output
from evolute.envs.code.problem import CodeProblem, Test, code_problem
from evolute.envs.code.source import code_of, entry_point_of
from evolute.envs.sandbox.calls import CallReport, call_all
from evolute.envs.sandbox.contract import Sandbox, SandboxLimits
from evolute.envs.sandbox.values import decode
from evolute.types import ConfigError, Env, Message, Problem, SandboxError, StepResult

LIMITS = SandboxLimits(seconds=10.0, cpu_seconds=10.0)  # for all private tests of one program
Grade = Callable[[Sandbox, CodeProblem, str], Awaitable[bool]]
Draw = Callable[[str, int, int], list[tuple[Problem, Grade]]]  # split, count, seed


@dataclass(frozen=True, slots=True)
class CodeTask:
    """A family of programming problems.

    Private tests live in the grades that `draw` gives beside the problems; a problem that this task
    did not give out cannot be graded.
    """

    name: str
    draw: Draw
    sandbox: Sandbox
    max_new_tokens: int = 256
    _grades: dict[str, Grade] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """Raises ConfigError when the family has fewer."""
        drawn = self.draw(split, count, seed)
        with self._lock:
            self._grades.update({problem.id: grade for problem, grade in drawn})
        return [problem for problem, _ in drawn]

    def make(self, problem: Problem) -> Env:
        """Raises ConfigError for a problem of somebody else."""
        if problem.id not in self._grades:
            raise ConfigError(
                f"problem {problem.id[:80]!r} was not drawn from this {self.name!r}; ask its "
                "`problems` first, with the same split and seed."
            )
        return CodeEnv(self.sandbox, code_problem(problem), self._grades[problem.id])


class CodeEnv:
    """One answer, graded in a thread of its own, since grading waits for a program."""

    def __init__(self, sandbox: Sandbox, code: CodeProblem, grade: Grade) -> None:
        self._sandbox, self._code, self._grade = sandbox, code, grade
        self.metrics: dict[str, float] = {}

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        source = code_of(action, self._code.starter, completes=self._code.completes)
        self.metrics["has_program"] = float(bool(source))
        is_right = bool(source) and run_apart(self._grade(self._sandbox, self._code, source))
        return StepResult(reward=float(is_right), metadata={"accuracy": float(is_right)})

    def close(self) -> None:
        """Nothing to release: a program is gone when it is graded."""

    def get_metrics(self) -> dict[str, float]:
        return dict(self.metrics)


async def passes_all(
    sandbox: Sandbox, code: CodeProblem, source: str, tests: Sequence[Test]
) -> bool:
    """Do all tests hold? Stops at the first that does not give a value."""
    try:
        name = entry_point_of(source, code.entry_point) if code.kind == "function" else ""
    except ValueError:
        return False
    inputs = [test.arguments for test in tests]
    limits = replace(LIMITS, max_output_bytes=2**20)
    reports = await call_all(sandbox, source, name, inputs, limits)
    return all(holds(code, test, report) for test, report in zip(tests, reports))


def holds(code: CodeProblem, test: Test, report: CallReport) -> bool:
    """Did this call give what the test expects?"""
    if report.state != "ok":
        return False
    value = decode(report.value)
    if code.kind == "stdin":
        return same_output(test.expected, value)
    return same(test.expected, value)


def run_apart(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
    """The coroutine's result, from a loop and a thread of its own: the caller may be in a loop."""
    result: list[Any] = []
    errors: list[BaseException] = []

    async def whole() -> Any:
        return await coroutine

    def work() -> None:
        try:
            result.append(asyncio.run(whole()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="evolute-grade")
    thread.start()
    thread.join(2 * LIMITS.seconds + 30)
    if thread.is_alive():
        raise SandboxError("a program was not graded in time; the sandbox does not answer.")
    if errors:
        raise errors[0]
    return result[0]
