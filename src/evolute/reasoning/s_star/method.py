"""S*: programs in parallel, each debugged, the best chosen by what they do (arXiv 2502.14382).

    SStar(roles, sandbox, config)                   a Method for programming problems
    make_s_star, make_public, make_majority, ...    the same samples under each selection policy

    N threads: write -> run on public tests -> repair, R times      generate.py
    -> candidates (recorded) -> public filter -> inputs that tell them apart -> clusters
    -> a judge sees real outputs, pair by pair -> one program       select.py

Roles: solver, debugger, input_maker, judge; who is not named is the solver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from evolute.envs.code.problem import CodeProblem, code_problem
from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account
from evolute.reasoning.method import Roles, Solution
from evolute.reasoning.s_star.generate import Candidate, threads
from evolute.reasoning.s_star.records import Recorded, Records
from evolute.reasoning.s_star.runs import Runs
from evolute.reasoning.s_star.select import Choice, Selection, choose
from evolute.reasoning.s_star.settings import SStarConfig
from evolute.types import ConfigError, NotSupported, Problem
from evolute.types.settings import from_mapping

MakeSandbox = Callable[[], Sandbox]
SAMPLED_BY = ("samples", "rounds", "temperature", "max_new_tokens", "style", "seed")


class SStar:
    """Reasons: passed, none_passed, no_public_tests, votes, tests, tournament, one_cluster,
    judge_useless, all_crashed, budget.

    `details`: the candidates' texts, which one was taken, how many of them pass the public tests
    (before and after repair), executions, judge calls.
    """

    def __init__(
        self, roles: Roles, sandbox: MakeSandbox, config: SStarConfig, name: str = ""
    ) -> None:
        self._roles, self._make, self.config = roles, sandbox, config
        self._name = name or config.selector
        _refuse_blind(roles, config)
        self._box: Sandbox | None = None
        self._records = Records(config.records) if config.records else None

    @property
    def name(self) -> str:
        return self._name

    async def solve(self, problem: Problem, account: Account) -> Solution:
        """Raises ConfigError for a problem that is not about programs."""
        code = code_problem(problem)
        if self._box is None:
            self._box = self._make()
        runs = Runs(self._box, code, self.config.limits)
        recorded = await self._candidates(code, account, runs)
        if not recorded.candidates:
            return Solution("", "budget", {"candidates": []})
        selection = Selection(code, recorded.candidates, runs, self._roles, account, self.config)
        choice = await choose(selection)
        if recorded.was_cut:
            choice = Choice(choice.index, "budget")
        return _solution(selection, choice)

    async def _candidates(self, code: CodeProblem, account: Account, runs: Runs) -> Recorded:
        key = self._key()
        known = self._records.get(code.id, key) if self._records else None
        if known is not None:
            return known
        candidates, was_cut = await threads(code, self._roles, account, runs, self.config)
        if self._records:
            self._records.add(code.id, key, candidates, was_cut)
        return Recorded(tuple(candidates), was_cut)

    def _key(self) -> dict[str, Any]:
        """What decides the candidates."""
        names = {part: self._roles.of(part).model_name for part in ("solver", "debugger")}
        limits = dataclasses.asdict(self.config.limits)
        return {**{name: getattr(self.config, name) for name in SAMPLED_BY}, **names, **limits}


def _refuse_blind(roles: Roles, config: SStarConfig) -> None:
    """Raises NotSupported for a judge by likelihood that tells none."""
    judge = roles.of("judge")
    is_judged = config.selector in ("judge", "s_star", "s_star_plus")
    if config.judge == "likelihood" and is_judged and not judge.capabilities.tokens:
        raise NotSupported(
            f"judge = 'likelihood' needs a judge that scores tokens, and {judge.model_name} does "
            "not; take a model here or an Evolute server, or judge = 'asked'."
        )


def text_of(source: str) -> str:
    """A program as an answer that the task's world reads."""
    return f"```python\n{source}```" if source else ""


def _solution(selection: Selection, choice: Choice) -> Solution:
    candidates = selection.candidates
    details: dict[str, Any] = {
        "candidates": [text_of(one.source) for one in candidates],
        "first_attempts": [text_of(one.first_source) for one in candidates],
        "chosen": candidates[choice.index].index,
        "passing": sum(map(_passes, candidates)),
        "passing_at_first": sum(_passes_at_first(one) for one in candidates),
        "repairs": sum(one.rounds for one in candidates),
        "executions": selection.runs.executions,
        **selection.counts,
    }
    return Solution(text_of(candidates[choice.index].source), choice.reason, details)


def _passes(one: Candidate) -> bool:
    return one.passes_all


def _passes_at_first(one: Candidate) -> bool:
    return bool(one.first_source) and one.first_passed == one.public


# -- factories ---------------------------------------------------------------


def make_s_star(roles: Roles, sandbox: MakeSandbox, settings: Mapping[str, Any]) -> SStar:
    """With `selector` in its settings any policy. Raises ConfigError for unknown settings."""
    config = from_mapping(SStarConfig, settings)
    return SStar(roles, sandbox, config, "s_star" if config.selector == "s_star" else "")


def _fixed(selector: str, name: str = "", **defaults: Any) -> Callable[..., SStar]:
    def make(roles: Roles, sandbox: MakeSandbox, settings: Mapping[str, Any]) -> SStar:
        if "selector" in settings:
            raise ConfigError(
                f"method {name or selector!r} has its selector; drop it, or choose method s_star."
            )
        config = from_mapping(SStarConfig, {**defaults, **settings, "selector": selector})
        return SStar(roles, sandbox, config, name or selector)

    return make


make_s_star_plus = _fixed("s_star_plus")
make_public = _fixed("public")
make_public_majority = _fixed("public_majority")
make_majority = _fixed("majority", rounds=0)
make_generated_tests = _fixed("generated_tests")
make_best_of_n = _fixed("judge", "best_of_n", rounds=0)
make_oracle = _fixed("first", "oracle")
make_random = _fixed("random")
make_fast = _fixed("fast")
