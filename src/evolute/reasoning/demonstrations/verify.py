"""Is a trace's solution right? The task's own world says so.

await sort_raw(task, rows, problems) -> Verified      right, wrong, rejected, in the rows' order
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.reasoning.demonstrations.reformat import Rejected, reformat
from evolute.reasoning.demonstrations.trace import StepsBy, Trace
from evolute.reasoning.evaluate import grade
from evolute.types import Problem, Task


@dataclass(slots=True)
class Verified:
    """Traces by what their solution is worth. Wrong ones are kept: perturbations need them."""

    right: list[Trace] = field(default_factory=list)
    wrong: list[Trace] = field(default_factory=list)
    rejected: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)  # row and reason


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
                return trace, await grade(task, problem, trace.solution)
            except Exception as error:  # a verifier that breaks on one answer
                return Rejected(f"verifier: {type(error).__name__}: {error}")

    found = Verified()
    for row, result in zip(rows, await asyncio.gather(*map(one, rows))):
        if isinstance(result, tuple):
            (found.right if result[1] else found.wrong).append(result[0])
        elif isinstance(result, Rejected):
            found.rejected.append((row, result.why))
    return found
