"""S* and its rivals on the same candidates (card 10: all policies replay one sampling).

    SUITE/POLICY/accuracy, /calls, /tokens, /executions     a problem's mean
    SUITE/POLICY/gain_on_public                             paired, with its interval
    SUITE/coverage                                          a right candidate is there (oracle)
    SUITE/efficiency                                        (s_star - random) / (oracle - random)

Suites: `diverse` and `systematic` errors of a stand-in for a model, then `model` on short programs.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evolute.bench.programming.stand_in import StandIn, skills
from evolute.bench.result import BenchResult
from evolute.engine import Engine, EngineConfig
from evolute.envs import make_task, paired_difference, wilson
from evolute.envs.sandbox.build import make_sandbox
from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account, Budget
from evolute.lang.endpoints import as_text_backend
from evolute.models import LoadedModel
from evolute.reasoning.evaluate import grade
from evolute.reasoning.method import Roles, Solution
from evolute.reasoning.s_star import SStar, SStarConfig
from evolute.reasoning.s_star.settings import Selector
from evolute.types import Problem, Task

POLICIES: tuple[Selector, ...] = (
    "first", "random", "majority", "public", "public_majority",
    "generated_tests", "judge", "s_star", "s_star_plus",
)  # fmt: skip
TASKS = {
    "diverse": "list-programs",
    "systematic": "list-programs?errors=systematic",
    "model": "list-programs?ops=1-1",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on all problems of a suite."""

    right: dict[str, bool]
    solutions: dict[str, Solution]
    account: Account


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 1,
) -> BenchResult:
    """One pass; the stand-in answers alike in each, so repeats would say the same."""
    count, num_model = (6, 4) if quick else (60, 40)
    sandbox = make_sandbox()
    figures: dict[str, float] = {}
    for suite in ("diverse", "systematic"):
        figures |= asyncio.run(scripted(suite, count, sandbox))
    with Engine(model, config) as engine:
        figures |= asyncio.run(with_model(Roles(as_text_backend(engine)), num_model, sandbox))
    name = model if isinstance(model, str) else model.name
    settings = {"model": name, "tasks": TASKS, "config": asdict(SStarConfig())}
    notes = (
        f"{count} problems a suite: 95 % intervals are about +-{98 / count**0.5:.0f} points",
        "the suites diverse and systematic are played by a stand-in whose skill is given "
        f"({asdict(skills()['diverse'])}); they test the algorithm, not a model",
    )
    spread = {key: (value, value) for key, value in figures.items()}
    return BenchResult("s_star", settings, figures, count, spread, notes=notes)


async def scripted(
    suite: str, count: int, sandbox: Sandbox, policies: Sequence[Selector] = POLICIES
) -> dict[str, float]:
    """All policies with a stand-in of that suite's skill."""
    task = make_task(TASKS[suite], lambda: sandbox)
    problems = task.problems("heldout", count)
    roles = Roles(StandIn(problems, skills()[suite]))
    config = SStarConfig(samples=16, rounds=2, judge_accuracy=0.8)
    return await compared(suite, task, problems, roles, config, sandbox, policies)


async def with_model(roles: Roles, count: int, sandbox: Sandbox) -> dict[str, float]:
    """The same policies with a real model that completes programs, on programs of one step."""
    task = make_task(TASKS["model"], lambda: sandbox)
    problems = task.problems("heldout", count)
    config = SStarConfig(samples=8, rounds=1, style="complete", max_new_tokens=48)
    return await compared("model", task, problems, roles, config, sandbox, POLICIES)


async def compared(
    suite: str,
    task: Task,
    problems: Sequence[Problem],
    roles: Roles,
    config: SStarConfig,
    sandbox: Sandbox,
    policies: Sequence[Selector],
) -> dict[str, float]:
    """Figures of a suite. The first policy samples, the others replay its records."""
    grades: dict[tuple[str, str], bool] = {}
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, records=str(Path(folder) / "candidates.jsonl"))
        for policy in policies:
            method = SStar(roles, lambda: sandbox, replace(config, selector=policy))
            outcomes[policy] = await _policy(task, problems, method, grades)
    figures: dict[str, float] = {}
    for name, outcome in outcomes.items():
        figures |= _figures(f"{suite}/{name}", outcome, outcomes.get("public"))
    return figures | await _coverage(suite, task, problems, outcomes, grades)


# -- internals ---------------------------------------------------------------


async def _policy(
    task: Task, problems: Sequence[Problem], method: SStar, grades: dict[tuple[str, str], bool]
) -> Outcome:
    account, gate = Account(), asyncio.Semaphore(8)

    async def one(problem: Problem) -> tuple[Solution, bool]:
        async with gate:
            solution = await method.solve(problem, account.part(problem.id, Budget()))
            return solution, await _graded(task, problem, solution.text, grades)

    done = await asyncio.gather(*(one(problem) for problem in problems))
    names = [problem.id for problem in problems]
    return Outcome(
        {name: is_right for name, (_, is_right) in zip(names, done)},
        {name: solution for name, (solution, _) in zip(names, done)},
        account,
    )


async def _graded(
    task: Task, problem: Problem, text: str, grades: dict[tuple[str, str], bool]
) -> bool:
    key = (problem.id, text)
    if key not in grades:
        grades[key] = bool(text) and await grade(task, problem, text)
    return grades[key]


def _figures(title: str, outcome: Outcome, public: Outcome | None) -> dict[str, float]:
    n = len(outcome.right)
    share = wilson(sum(outcome.right.values()), n)
    spent = outcome.account.spent
    executions = sum(int(s.details.get("executions", 0)) for s in outcome.solutions.values())
    figures = {
        f"{title}/accuracy": share.mean,
        f"{title}/low": share.low,
        f"{title}/high": share.high,
        f"{title}/calls": spent.calls / n,
        f"{title}/tokens": spent.tokens / n,
        f"{title}/executions": executions / n,
    }
    if public is not None and public is not outcome:
        gain = paired_difference(public.right, outcome.right)
        figures |= {f"{title}/gain_on_public": gain.mean}
        figures |= {f"{title}/gain_low": gain.low, f"{title}/gain_high": gain.high}
    return figures


async def _coverage(
    suite: str,
    task: Task,
    problems: Sequence[Problem],
    outcomes: dict[str, Outcome],
    grades: dict[tuple[str, str], bool],
) -> dict[str, float]:
    """Before and after repair, zero-shot, and how much of it the selection gets."""
    any_of = next(iter(outcomes.values())).solutions
    shares: dict[str, list[float]] = {"coverage": [], "coverage_at_first": [], "zero_shot": []}
    random_share: list[float] = []
    for problem in problems:
        details = any_of[problem.id].details
        last = [await _graded(task, problem, t, grades) for t in details["candidates"]]
        first = [await _graded(task, problem, t, grades) for t in details["first_attempts"]]
        shares["coverage"].append(float(any(last)))
        shares["coverage_at_first"].append(float(any(first)))
        shares["zero_shot"].append(sum(first) / max(len(first), 1))
        random_share.append(sum(last) / max(len(last), 1))
    n = len(problems)
    figures = {f"{suite}/{name}": sum(values) / n for name, values in shares.items()}
    least, most = sum(random_share) / n, figures[f"{suite}/coverage"]
    figures[f"{suite}/expected_of_random"] = least
    if "s_star" in outcomes and most > least:
        accuracy = sum(outcomes["s_star"].right.values()) / n
        figures[f"{suite}/efficiency"] = (accuracy - least) / (most - least)
    return figures
