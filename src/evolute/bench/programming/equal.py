"""Is S* more than its budget? Its rivals get more samples until they cost as much.

    await at_equal_budget(suite) -> figures      first of all: what is replayed is not paid again
    await stages(suite) -> figures               what samples, repairs and selection each gain

    SUITE/equal/s_star/...            accuracy with its interval, tokens a problem, samples
    SUITE/equal/RIVAL/...             the same; tokens are at least those of S*
    SUITE/equal/RIVAL/gain            S* over the rival, paired, with `_low` and `_high`
    SUITE/stages/STAGE/...            one, parallel, debugged, selected; `gain` on the one before

Rivals sample more of the same: a sample is told apart by its number alone, so that theirs begin
with those of S*. `majority` and `public` write programs only; `public_mended` and
`public_majority_mended` mend them as S* does.
"""

from __future__ import annotations

import math
from typing import Any

from evolute.bench.programming.policies import Outcome, Suite, figures_of, gain
from evolute.reasoning.s_star.settings import Selector

RIVALS: dict[str, tuple[Selector, bool]] = {
    "majority": ("majority", False),
    "public": ("public", False),
    "public_mended": ("public", True),
    "public_majority": ("public_majority", False),
    "public_majority_mended": ("public_majority", True),
}
WRITING = ("solver", "debugger")


async def at_equal_budget(suite: Suite, selector: Selector = "s_star") -> dict[str, float]:
    """Figures of S* and of each rival at its cost."""
    title = f"{suite.title}/equal"
    with suite.recorded() as suite:
        ours = await suite.outcome(selector=selector)
        figures = figures_of(f"{title}/{selector}", ours)
        config, paid = suite.config, ours.tokens(*WRITING)
        costs = {(config.samples, config.rounds): paid}  # replays pay nothing
        for name, (rival, is_mended) in RIVALS.items():
            rounds = suite.config.rounds if is_mended else 0
            theirs, samples = await _with_as_much(suite, rival, rounds, ours.tokens(), costs)
            figures |= figures_of(f"{title}/{name}", theirs)
            figures[f"{title}/{name}/tokens"] = costs[samples, rounds]
            figures[f"{title}/{name}/samples"] = samples
            figures |= gain(f"{title}/{name}/gain", theirs, ours)
    return figures


async def _with_as_much(
    suite: Suite, rival: Selector, rounds: int, target: float, costs: dict[tuple[int, int], float]
) -> tuple[Outcome, int]:
    """The rival with the fewest samples, of those tried, that cost `target` tokens a problem."""
    samples = suite.config.samples
    while True:
        theirs = await suite.outcome(selector=rival, rounds=rounds, samples=samples)
        cost = costs.setdefault((samples, rounds), theirs.tokens(*WRITING))
        if cost >= target:
            return theirs, samples
        samples = max(samples + 1, math.ceil(samples * target / cost))


async def stages(suite: Suite, selector: Selector = "s_star") -> dict[str, float]:
    """The paper's figure 3: one program, the first of many that passes the public tests, the same
    after repairs, and the one that is selected."""
    title, figures = f"{suite.title}/stages", dict[str, float]()
    plan: dict[str, dict[str, Any]] = {
        "one": {"selector": "first", "rounds": 0, "samples": 1},
        "parallel": {"selector": "public", "rounds": 0},
        "debugged": {"selector": "public"},
        "selected": {"selector": selector},
    }
    before: Outcome | None = None
    with suite.recorded() as suite:
        for stage, changes in plan.items():
            outcome = await suite.outcome(**changes)
            figures |= figures_of(f"{title}/{stage}", outcome)
            if before is not None:
                figures |= gain(f"{title}/{stage}/gain", before, outcome)
            before = outcome
    return figures
