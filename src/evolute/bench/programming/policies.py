"""One selection policy on the problems of a suite: right answers, costs, and the best there was.

Suite(title, task, problems, roles, config, sandbox)
await suite.outcome(**changes) -> Outcome        solve and grade all with these settings
figures_of(title, outcome) -> figures            accuracy with its interval, mean costs
gain(title, before, after) -> figures            paired, with its interval
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.envs import paired_difference, wilson
from evolute.envs.sandbox.contract import (
    RunReport,
    Sandbox,
    SandboxFeatures,
    SandboxLimits,
    Script,
)
from evolute.lang.account import Account, Budget, Spent
from evolute.reasoning.evaluate import grade
from evolute.reasoning.method import Roles, Solution
from evolute.reasoning.s_star import SStar, SStarConfig
from evolute.types import Problem, SandboxError, Task

AT_ONCE = 8  # problems
TRIES = 3  # of a sandbox that could not be set up: a machine may stand still within a long bench


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on all problems of a suite, by the problems' ids."""

    right: dict[str, bool]
    solutions: dict[str, Solution]
    account: Account

    @property
    def accuracy(self) -> float:
        return sum(self.right.values()) / len(self.right)

    def tokens(self, *roles: str) -> float:
        """A problem's mean; of these roles alone where some are named."""
        by_role = self.account.by_role
        spent = [by_role.get(r, Spent()) for r in roles] if roles else list(by_role.values())
        return sum(one.tokens for one in spent) / len(self.right)


@dataclass(slots=True)
class Suite:
    """Problems of a task, and who solves them. An answer is graded once."""

    title: str
    task: Task
    problems: Sequence[Problem]
    roles: Roles
    config: SStarConfig
    sandbox: Sandbox
    _grades: dict[tuple[str, str], bool] = field(default_factory=dict)

    async def outcome(self, **changes: Any) -> Outcome:
        method = SStar(self.roles, lambda: self.sandbox, replace(self.config, **changes))
        account, gate = Account(), asyncio.Semaphore(AT_ONCE)

        async def one(problem: Problem) -> tuple[Solution, bool]:
            async with gate:
                solution = await method.solve(problem, account.part(problem.id, Budget()))
                return solution, await self.is_right(problem, solution.text)

        done = await asyncio.gather(*(one(problem) for problem in self.problems))
        names = [problem.id for problem in self.problems]
        return Outcome(
            {name: is_right for name, (_, is_right) in zip(names, done)},
            {name: solution for name, (solution, _) in zip(names, done)},
            account,
        )

    @contextmanager
    def recorded(self) -> Iterator[Suite]:
        """The same suite, whose candidates are kept in a file: its own, or one for this while."""
        if self.config.records:
            yield self
            return
        with tempfile.TemporaryDirectory() as folder:
            records = f"{folder}/candidates.jsonl"
            yield replace(self, config=replace(self.config, records=records))

    async def is_right(self, problem: Problem, text: str) -> bool:
        key = (problem.id, text)
        if key not in self._grades:
            self._grades[key] = bool(text) and await grade(self.task, problem, text)
        return self._grades[key]


class Remembered:
    """A `Sandbox` that runs a program once: what the next policy asks again is told from memory.
    For programs whose result does not depend on time or chance."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox, self.runs = sandbox, 0
        self._known: dict[tuple[Any, ...], RunReport] = {}

    @property
    def features(self) -> SandboxFeatures:
        return self._sandbox.features

    async def run(self, script: Script, limits: SandboxLimits) -> RunReport:
        files = tuple(sorted(script.files.items()))
        key = (script.source, script.stdin, script.arguments, files, script.packages, limits)
        if key not in self._known:
            self.runs += 1
            self._known[key] = await self._run(script, limits)
        return self._known[key]

    async def _run(self, script: Script, limits: SandboxLimits) -> RunReport:
        for _ in range(TRIES - 1):
            with suppress(SandboxError):
                return await self._sandbox.run(script, limits)
        return await self._sandbox.run(script, limits)


def figures_of(title: str, outcome: Outcome) -> dict[str, float]:
    """By name; calls, tokens and executions are a problem's mean."""
    n = len(outcome.right)
    share = wilson(sum(outcome.right.values()), n)
    executions = sum(int(s.details.get("executions", 0)) for s in outcome.solutions.values())
    return {
        f"{title}/accuracy": share.mean,
        f"{title}/low": share.low,
        f"{title}/high": share.high,
        f"{title}/calls": outcome.account.spent.calls / n,
        f"{title}/tokens": outcome.account.spent.tokens / n,
        f"{title}/executions": executions / n,
    }


def gain(title: str, before: Outcome, after: Outcome) -> dict[str, float]:
    """Of the second over the first, on the same problems."""
    found = paired_difference(before.right, after.right)
    return {title: found.mean, f"{title}_low": found.low, f"{title}_high": found.high}
