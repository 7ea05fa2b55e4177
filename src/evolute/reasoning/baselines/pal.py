"""A program instead of an answer: PAL (Gao et al. 2022), with a repair loop.

Pal(roles, sandbox)      the model writes Python, the sandbox runs it, what it prints is the answer

The fair rival of a thought buffer with code: the same sandbox, libraries and attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolute.envs.sandbox.contract import RunReport, Sandbox, SandboxLimits, Script
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.answers import code_of
from evolute.reasoning.asking import ask
from evolute.reasoning.baselines.plain import with_instruction
from evolute.reasoning.method import Roles, Solution, seed_of
from evolute.types import BudgetSpent, ConfigError, Message, Problem, SamplingParams
from evolute.types.settings import from_mapping

WRITE = (
    "Write a Python program that prints the answer and nothing else. Put it in one ```python block."
)
SAID = 400  # characters of an error that the model is shown


@dataclass(frozen=True, slots=True)
class PalConfig:
    attempts: int = 3  # programs, the first included
    max_new_tokens: int = 512
    temperature: float = 0.0
    packages: tuple[str, ...] = ()  # importable besides the standard library
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"pal with {self.attempts} attempts; it takes at least 1.")


class Pal:
    """Reasons: `ran`; `no_program` (no attempt had one: the last text is the answer); `crashed`
    (none ran to its end with an output); `budget`."""

    name = "pal"

    def __init__(
        self, roles: Roles, sandbox: Callable[[], Sandbox], config: PalConfig | None = None
    ) -> None:
        self._roles, self._sandbox = roles, sandbox
        self._config = config or PalConfig()

    async def solve(self, problem: Problem, account: Account) -> Solution:
        solver = Metered(self._roles.of("solver"), account, "solver")
        messages: tuple[Message, ...] = with_instruction(problem.messages, WRITE)
        text, source, reason = "", "", "budget"
        for attempt in range(self._config.attempts):
            try:
                text = await ask(solver, messages, self._sampling(problem, attempt))
            except BudgetSpent:
                break
            source = code_of(text) or ""
            if not source:
                reason, fault = "no_program", "There was no ```python block in it."
            else:
                report = await self._sandbox().run(self._script(source), self._config.limits)
                if output := output_of(report):
                    return Solution(output, "ran", {"source": source, "attempts": attempt + 1})
                reason, fault = "crashed", fault_of(report)
            messages = (*messages, *repair(text, fault))
        return Solution("" if source else text, reason, {"source": source})

    # -- internals ---------------------------------------------------------------

    def _script(self, source: str) -> Script:
        return Script(source, packages=self._config.packages)

    def _sampling(self, problem: Problem, attempt: int) -> SamplingParams:
        seed = seed_of(problem.id, self.name, attempt)
        config = self._config
        return SamplingParams(config.max_new_tokens, temperature=config.temperature, seed=seed)


def output_of(report: RunReport) -> str:
    """What a program that ended well printed; "" for any other one."""
    return report.stdout.strip() if report.is_ok else ""


def fault_of(report: RunReport) -> str:
    """What the model is told of a program that failed: the end of its traceback, or the limit."""
    if report.is_ok:
        return "It printed nothing."
    lines = report.stderr.strip()[-SAID:]
    return f"It ended by {report.ending} (exit code {report.exit_code}).\n{lines}".strip()


def repair(text: str, fault: str) -> tuple[Message, Message]:
    """The turn that was, and what was wrong with it."""
    said = f"That failed. {fault}\nWrite the whole program again, corrected."
    return {"role": "assistant", "content": text}, {"role": "user", "content": said}


def make_pal(roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]) -> Pal:
    return Pal(roles, sandbox, from_mapping(PalConfig, settings))
