"""What does a candidate program give for an input? Each question is asked once.

Runs(sandbox, code, limits)
await runs.reports(source, inputs) -> list[CallReport]
await runs.check(source) -> list[CallReport]          on the public tests
outcome_of(report) -> str                             what clusters are made of
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from evolute.envs.code.problem import CodeProblem
from evolute.envs.code.source import entry_point_of
from evolute.envs.sandbox.calls import CallReport, call_each
from evolute.envs.sandbox.contract import Sandbox, SandboxLimits
from evolute.envs.sandbox.values import encode

Input = tuple[Any, ...]
FAILED = "!"  # outcome of a call without a value


class Runs:
    """Invariant: (program, input) is run at most once; `executions` counts."""

    def __init__(self, sandbox: Sandbox, code: CodeProblem, limits: SandboxLimits) -> None:
        self._sandbox, self._code, self._limits = sandbox, code, limits
        self._known: dict[tuple[str, str], CallReport] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.executions = 0

    async def reports(self, source: str, inputs: Sequence[Input]) -> list[CallReport]:
        """One an input. A program without anything to call "raised" on each."""
        keys = [(source, encode(list(one))) for one in inputs]
        async with self._locks.setdefault(source, asyncio.Lock()):
            new = {key: one for key, one in zip(keys, inputs) if key not in self._known}
            found = await self._run(source, list(new.values()))
            self._known.update(zip(new, found))
        return [self._known[key] for key in keys]

    async def check(self, source: str) -> list[CallReport]:
        return await self.reports(source, [test.arguments for test in self._code.public])

    async def outcomes(self, source: str, inputs: Sequence[Input]) -> tuple[str, ...]:
        return tuple(map(outcome_of, await self.reports(source, inputs)))

    async def _run(self, source: str, inputs: list[Input]) -> list[CallReport]:
        if not inputs:
            return []
        try:
            is_function = self._code.kind == "function"
            name = entry_point_of(source, self._code.entry_point) if is_function else ""
        except ValueError as error:
            return [CallReport("raised", error=str(error))] * len(inputs)
        self.executions += len(inputs)
        return await call_each(self._sandbox, source, name, inputs, self._limits)


def outcome_of(report: CallReport) -> str:
    """The canonical value; calls without one are all alike."""
    return report.value if report.state == "ok" else FAILED
