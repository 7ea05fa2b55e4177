"""S* and its rivals on the same candidates (card 10: all policies replay one sampling).

    SUITE/POLICY/accuracy, /calls, /tokens, /executions     a problem's mean
    SUITE/POLICY/gain_on_public                             paired, with its interval
    SUITE/coverage                                          a right candidate is there (oracle)
    SUITE/efficiency                                        (s_star - random) / (oracle - random)

    SUITE/equal/...                                         rivals at the cost of S*, see `equal`

Suites: `diverse` and `systematic` errors of a stand-in for a model; `pupil`, a small model that is
taught here to write, mend and judge; `model` on programs of one step.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from evolute.bench.programming.equal import at_equal_budget, stages
from evolute.bench.programming.policies import Outcome, Remembered, Suite, figures_of, gain
from evolute.bench.programming.pupil import Sizes, cases, pupil
from evolute.bench.programming.stand_in import StandIn, skills
from evolute.bench.result import BenchResult
from evolute.bench.told import tell
from evolute.engine import Engine, EngineConfig
from evolute.envs import make_task
from evolute.envs.sandbox.build import make_sandbox
from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.endpoints import as_text_backend
from evolute.models import LoadedModel
from evolute.reasoning.method import Roles
from evolute.reasoning.s_star import SStarConfig
from evolute.reasoning.s_star.judge import calibrate
from evolute.reasoning.s_star.settings import Selector
from evolute.types import Problem, Task

POLICIES: tuple[Selector, ...] = (
    "first", "random", "majority", "public", "public_majority",
    "generated_tests", "judge", "s_star", "s_star_plus",
)  # fmt: skip
TASKS = {
    "diverse": "list-programs",
    "systematic": "list-programs?errors=systematic",
    "pupil": "list-programs?ops=1-2&errors=systematic&public=1",
    "model": "list-programs?ops=1-1&errors=systematic&public=1",
}
NUM_LESSONS = 2000  # problems of the train split that the pupil is taught on
SIZE_PRIOR = 0.0  # of s_star_plus with the pupil: its wrong programs share a mistake


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 1,
) -> BenchResult:
    """One pass; the stand-in answers alike in each, so repeats would say the same."""
    count, num_pupil, num_model = (6, 6, 4) if quick else (60, 100, 40)
    sandbox = Remembered(make_sandbox())
    figures: dict[str, float] = {}
    for suite in ("diverse", "systematic"):
        figures |= asyncio.run(scripted(suite, count, sandbox))
    sizes = Sizes(200, 100, 400) if quick else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        taught = teach(Path(folder), sizes, sandbox)
    with Engine(taught, replace(config or EngineConfig(), precision="float32")) as engine:
        roles = Roles(as_text_backend(engine))
        figures |= asyncio.run(with_pupil(roles, num_pupil, sandbox))
    with Engine(model, config) as engine:
        figures |= asyncio.run(with_model(Roles(as_text_backend(engine)), num_model, sandbox))
    name = model if isinstance(model, str) else model.name
    settings = {
        "model": name,
        "tasks": TASKS,
        "config": asdict(SStarConfig()),
        "pupil": asdict(sizes),
        "counts": [count, num_pupil, num_model],
    }
    notes = (
        f"{count} problems a scripted suite, {num_pupil} for the pupil, {num_model} for the model: "
        "each accuracy has its Wilson interval, each gain a paired one",
        "the suites diverse and systematic are played by a stand-in whose skill is given "
        f"({asdict(skills()['diverse'])}); they test the algorithm, not a model",
    )
    spread = {key: (value, value) for key, value in figures.items()}
    return BenchResult("s_star", settings, figures, count, spread, notes=notes)


def teach(folder: Path, sizes: Sizes, sandbox: Sandbox, seed: int = 0) -> LoadedModel:
    """A pupil, from the train split of its suite."""
    problems = make_task(TASKS["pupil"], lambda: sandbox).problems("train", NUM_LESSONS, seed)
    return pupil(seed, sizes, folder, problems)


async def with_pupil(roles: Roles, count: int, sandbox: Sandbox) -> dict[str, float]:
    """The policies on the pupil's held-out problems, and S* beside rivals at its cost. Its judge is
    measured on problems of the train split that it was not taught."""
    task = make_task(TASKS["pupil"], lambda: sandbox)
    known = cases(task.problems("train", 200, seed=1), 200, seed=1)
    config = SStarConfig(
        samples=8, rounds=1, judge="likelihood", max_new_tokens=96, size_prior=SIZE_PRIOR
    )
    accuracy = await calibrate(roles.of("judge"), known, config)
    config = replace(config, judge_accuracy=min(max(accuracy, 0.01), 0.99))
    figures = await measured("pupil", task, roles, config, count, sandbox)
    return figures | {"pupil/judge_accuracy": accuracy}


async def scripted(
    suite: str, count: int, sandbox: Sandbox, policies: Sequence[Selector] = POLICIES
) -> dict[str, float]:
    """All policies with a stand-in of that suite's skill."""
    task = make_task(TASKS[suite], lambda: sandbox)
    problems = task.problems("heldout", count)
    roles = Roles(StandIn(problems, skills()[suite]))
    config = SStarConfig(samples=16, rounds=2, judge_accuracy=0.8)
    figures = await compared(suite, task, problems, roles, config, sandbox, policies)
    return figures | await stages(Suite(suite, task, problems, roles, config, sandbox))


async def with_model(roles: Roles, count: int, sandbox: Sandbox) -> dict[str, float]:
    """The same policies with a real model that completes programs, on programs of one step."""
    task = make_task(TASKS["model"], lambda: sandbox)
    config = SStarConfig(
        samples=8, rounds=1, style="complete", max_new_tokens=48, judge="likelihood"
    )
    return await measured("model", task, roles, config, count, sandbox)


async def measured(
    title: str, task: Task, roles: Roles, config: SStarConfig, count: int, sandbox: Sandbox
) -> dict[str, float]:
    """S* beside rivals at its cost, stages, and all policies: one sampling serves all of them, and
    is paid in `equal`."""
    problems = task.problems("heldout", count)
    with Suite(title, task, problems, roles, config, sandbox).recorded() as suite:
        figures = await at_equal_budget(suite) | await stages(suite)
        kept = suite.config
        return figures | await compared(title, task, problems, roles, kept, sandbox, POLICIES)


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
    outcomes: dict[str, Outcome] = {}
    with Suite(suite, task, problems, roles, config, sandbox).recorded() as found:
        for policy in policies:
            outcomes[policy] = await found.outcome(selector=policy)
            tell(f"{suite}, {policy}: {outcomes[policy].accuracy:.0%} right")
    figures: dict[str, float] = {}
    for name, outcome in outcomes.items():
        figures |= figures_of(f"{suite}/{name}", outcome)
        if "public" in outcomes and name != "public":
            figures |= gain(f"{suite}/{name}/gain_on_public", outcomes["public"], outcome)
    return figures | await _coverage(found, outcomes)


# -- internals ---------------------------------------------------------------


async def _coverage(suite: Suite, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Before and after repair, zero-shot, and how much of it the selection gets."""
    any_of = next(iter(outcomes.values())).solutions
    shares: dict[str, list[float]] = {"coverage": [], "coverage_at_first": [], "zero_shot": []}
    random_share: list[float] = []
    for problem in suite.problems:
        details = any_of[problem.id].details
        last = [await suite.is_right(problem, t) for t in details["candidates"]]
        first = [await suite.is_right(problem, t) for t in details["first_attempts"]]
        shares["coverage"].append(float(any(last)))
        shares["coverage_at_first"].append(float(any(first)))
        shares["zero_shot"].append(sum(first) / max(len(first), 1))
        random_share.append(sum(last) / max(len(last), 1))
    n = len(suite.problems)
    figures = {f"{suite.title}/{name}": sum(values) / n for name, values in shares.items()}
    least, most = sum(random_share) / n, figures[f"{suite.title}/coverage"]
    figures[f"{suite.title}/expected_of_random"] = least
    if "s_star" in outcomes and most > least:
        efficiency = (outcomes["s_star"].accuracy - least) / (most - least)
        figures[f"{suite.title}/efficiency"] = efficiency
    return figures
