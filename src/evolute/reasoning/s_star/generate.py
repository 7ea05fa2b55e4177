"""Stage 1: programs written in parallel, each repaired with what the public tests said.

    await threads(...) -> list[Candidate]

Source: S*, section 3.1. Threads are independent; a thread ends when it passes all public tests or
after `rounds` repairs, and its last attempt is the candidate. A repair sees all earlier rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolute.envs.code.problem import CodeProblem
from evolute.envs.code.source import code_of
from evolute.envs.code.task import holds
from evolute.envs.sandbox.calls import CallReport
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.method import Roles, seed_of
from evolute.reasoning.s_star.prompts import GOES_ON, begun, put, repair, write
from evolute.reasoning.s_star.runs import Runs
from evolute.reasoning.s_star.settings import SStarConfig
from evolute.reasoning.s_star.together import together
from evolute.types import BudgetSpent, SamplingParams


@dataclass(frozen=True, slots=True)
class Attempt:
    """One program and what each public test said of it."""

    source: str
    feedback: tuple[str, ...]
    passed: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a thread came to. `passed` of `public` tests hold; `seconds` they took."""

    index: int
    source: str
    passed: int
    public: int
    seconds: float
    rounds: int  # repairs made
    first_passed: int  # of the first attempt
    first_source: str = ""

    @property
    def passes_all(self) -> bool:
        return bool(self.source) and self.passed == self.public


async def threads(
    code: CodeProblem, roles: Roles, account: Account, runs: Runs, config: SStarConfig
) -> tuple[list[Candidate], bool]:
    """Candidates in the order of their threads, and whether the budget ended any of them. A thread
    that wrote nothing gives none. Model failures rise, and end all threads."""
    numbers = range(config.samples)
    done = await together(_Thread(code, roles, account, runs, config, n).run() for n in numbers)
    return [one for one, _ in done if one is not None], any(cut for _, cut in done)


class _Thread:
    def __init__(
        self,
        code: CodeProblem,
        roles: Roles,
        account: Account,
        runs: Runs,
        config: SStarConfig,
        number: int,
    ) -> None:
        self._code, self._runs, self._config, self._number = code, runs, config, number
        self._solver = Metered(roles.of("solver"), account, "solver")
        self._debugger = Metered(roles.of("debugger"), account, "debugger")
        self._attempts: list[Attempt] = []
        self._seconds = 0.0

    async def run(self) -> tuple[Candidate | None, bool]:
        try:
            for turn in range(self._config.rounds + 1):
                await self._attempt(turn)
                if self._is_done():
                    break
        except BudgetSpent:
            return self._candidate(), True
        return self._candidate(), False

    async def _attempt(self, turn: int) -> None:
        config = self._config
        sampling = SamplingParams(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed_of(self._code.id, config.seed, self._number, turn),
        )
        if turn == 0:
            question, model = write(self._code, config.style), self._solver
        else:
            told = [(one.source, one.feedback) for one in self._attempts]
            question, model = repair(self._code, told, config.style), self._debugger
        text = await put(model, question, sampling)
        goes_on = self._code.completes or config.style in GOES_ON
        if config.style == "body":
            text = begun(config.style) + text.partition("\n```")[0]
        source = code_of(text, self._code.starter, completes=goes_on)
        reports = await self._runs.check(source) if source else []
        self._seconds = sum(report.seconds for report in reports)
        self._attempts.append(judged(self._code, source, reports))

    def _is_done(self) -> bool:
        last, tests = self._attempts[-1], self._code.public
        return bool(last.source) and (not tests or last.passed == len(tests))

    def _candidate(self) -> Candidate | None:
        if not self._attempts:
            return None
        first, last = self._attempts[0], self._attempts[-1]
        return Candidate(
            self._number,
            last.source,
            last.passed,
            len(self._code.public),
            round(self._seconds, 6),
            len(self._attempts) - 1,
            first.passed,
            first.source,
        )


def judged(code: CodeProblem, source: str, reports: Sequence[CallReport]) -> Attempt:
    """A program with one line of feedback a public test."""
    if not source:
        return Attempt("", ("The answer held no program that can be read.",), 0)
    held = [holds(code, test, report) for test, report in zip(code.public, reports)]
    lines = [
        f"input {_shown(test.arguments)}: expected {test.expected!r}, "
        + ("which it gave" if is_held else _what(report))
        for test, report, is_held in zip(code.public, reports, held)
    ]
    return Attempt(source, tuple(lines), sum(held))


def _shown(arguments: tuple[object, ...]) -> str:
    return ", ".join(map(repr, arguments))


def _what(report: CallReport) -> str:
    return f"got {report.value}" if report.state == "ok" else f"{report.state}: {report.error}"
