"""One call: the question as it is, or with room to think (Wei et al. 2022, Kojima et al. 2022).

Direct(roles)              the reply is the answer
ChainOfThought(roles)      think step by step; what is marked as the answer is the answer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.answers import marked_answer
from evolute.reasoning.asking import ask
from evolute.reasoning.method import Roles, Solution, seed_of
from evolute.types import BudgetSpent, Message, Problem, SamplingParams
from evolute.types.settings import from_mapping

THINK = "Think step by step. End with one line of the form\nAnswer: ..."


@dataclass(frozen=True, slots=True)
class PlainConfig:
    """Of one call. Raises RequestError, when it is made, for values out of range."""

    max_new_tokens: int = 256
    temperature: float = 0.0

    def sampling(self, seed: int) -> SamplingParams:
        return SamplingParams(self.max_new_tokens, temperature=self.temperature, seed=seed)


class Direct:
    """Reasons: `answered`, `budget`."""

    name = "greedy"

    def __init__(self, roles: Roles, config: PlainConfig | None = None) -> None:
        self._roles, self._config = roles, config or PlainConfig()

    async def solve(self, problem: Problem, account: Account) -> Solution:
        return await _one_call(self, problem.messages, self._roles, self._config, problem, account)

    def answer(self, text: str) -> str:
        return text


class ChainOfThought(Direct):
    """Direct with an instruction; without a marked answer the whole text is it."""

    name = "cot"

    async def solve(self, problem: Problem, account: Account) -> Solution:
        messages = with_instruction(problem.messages, THINK)
        return await _one_call(self, messages, self._roles, self._config, problem, account)

    def answer(self, text: str) -> str:
        return marked_answer(text) or text


def with_instruction(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Messages whose last one ends with an instruction; an empty one changes nothing."""
    if not text or not messages:
        return messages
    last = messages[-1]
    return (*messages[:-1], {**last, "content": f"{last['content']}\n\n{text}"})


def make_direct(
    roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]
) -> Direct:
    return Direct(roles, from_mapping(PlainConfig, settings))


def make_cot(
    roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]
) -> ChainOfThought:
    return ChainOfThought(roles, from_mapping(PlainConfig, settings))


# -- internals ---------------------------------------------------------------


async def _one_call(
    method: Direct,
    messages: tuple[Message, ...],
    roles: Roles,
    config: PlainConfig,
    problem: Problem,
    account: Account,
) -> Solution:
    solver = Metered(roles.of("solver"), account, "solver")
    try:
        text = await ask(solver, messages, config.sampling(seed_of(problem.id, method.name)))
    except BudgetSpent:
        return Solution("", "budget")
    return Solution(method.answer(text), "answered", {"text": text})
