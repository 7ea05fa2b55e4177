"""Is a trace's solution right? The task's own world says so.

await verify(task, problem, text) -> bool               one answer
await sort_raw(task, rows, ...) -> Verified             a file of answers: right, wrong, rejected
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.envs.blocking import run_blocking
from evolute.envs.step import read_step
from evolute.reasoning.demonstrations.reformat import Rejected, reformat
from evolute.reasoning.demonstrations.trace import StepsBy, Trace
from evolute.types import Problem, Task

TIMEOUT_S = 60.0


@dataclass(slots=True)
class Verified:
    """Traces by what their solution is worth. Wrong ones are kept: perturbations need them."""

    right: list[Trace] = field(default_factory=list)
    wrong: list[Trace] = field(default_factory=list)
    rejected: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)  # row and reason


async def verify(task: Task, problem: Problem, text: str) -> bool:
    """Whether the world gives the answer its full reward. Raises what the world raises."""

    def grade() -> bool:
        env = task.make(problem)
        try:
            env.init(problem.messages)
            step = read_step(env.step(text))
        finally:
            env.close()
        accuracy = step.metadata.get("accuracy", step.reward)
        return float(accuracy) >= 1.0

    return bool(await run_blocking(grade, timeout_s=TIMEOUT_S))


async def sort_raw(
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    problems: Sequence[Problem],
    *,
    by: StepsBy = "breaks",
    concurrency: int = 16,
) -> Verified:
    """Reformat and grade every answer, in the order of the rows. Answers to problems that are not
    among `problems` are rejected."""
    by_id = {problem.id: problem for problem in problems}
    gate = asyncio.Semaphore(concurrency)

    async def one(row: Mapping[str, Any]) -> Trace | Rejected | tuple[Trace, bool]:
        problem = by_id.get(row["problem_id"])
        trace = reformat(row, task.name, by=by) if problem else Rejected("unknown problem")
        if isinstance(trace, Rejected) or problem is None:
            return trace
        async with gate:
            try:
                return trace, await verify(task, problem, trace.solution)
            except Exception as error:  # a verifier that breaks on one answer
                return Rejected(f"verifier: {type(error).__name__}: {error}")

    found = Verified()
    for row, result in zip(rows, await asyncio.gather(*map(one, rows))):
        if isinstance(result, tuple):
            (found.right if result[1] else found.wrong).append(result[0])
        elif isinstance(result, Rejected):
            found.rejected.append((row, result.why))
    return found
