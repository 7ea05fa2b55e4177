"""Many calls and a vote: self-consistency (Wang et al. 2022).

Majority(roles, samples=, temperature=, key=)     the answer that most samples agree on

What agrees is decided by `key`: the final answer of a text for questions, the outputs of a program
for code. An empty key has no vote.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account
from evolute.lang.backend import TextBackend
from evolute.lang.metered import Metered
from evolute.reasoning.answers import final_answer, marked_answer
from evolute.reasoning.asking import ask
from evolute.reasoning.baselines.plain import THINK, with_instruction
from evolute.reasoning.method import Roles, Solution, seed_of
from evolute.types import BudgetSpent, ConfigError, Problem, SamplingParams
from evolute.types.settings import from_mapping

Key = Callable[[Problem, str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class VotesConfig:
    samples: int = 16
    temperature: float = 0.7
    max_new_tokens: int = 256


class Majority:
    """Reasons: `majority`; `no_vote` (no sample had a key: the first text); `budget` (nothing was
    sampled). Of keys with equal votes the one that was seen first wins.

    `instruction` is added to the question; `finish` makes the answer of the winner's first text.
    """

    name = "majority"

    def __init__(
        self,
        roles: Roles,
        *,
        samples: int,
        temperature: float,
        key: Key,
        max_new_tokens: int = 512,
        instruction: str = "",
        finish: Callable[[str], str] = str,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"majority of {samples} samples; it takes at least 1.")
        self._roles, self._key, self._samples = roles, key, samples
        self._sampling = SamplingParams(max_new_tokens, temperature=temperature)
        self._instruction, self._finish = instruction, finish

    async def solve(self, problem: Problem, account: Account) -> Solution:
        solver = Metered(self._roles.of("solver"), account, "solver")
        texts = await self._texts(solver, problem)
        if not texts:
            return Solution("", "budget")
        keys = await asyncio.gather(*(self._key(problem, text) for text in texts))
        winner = most_votes(keys)
        text = texts[keys.index(winner)] if winner else texts[0]
        details = {"candidates": list(texts), "keys": list(keys)}
        return Solution(self._finish(text), "majority" if winner else "no_vote", details)

    # -- internals ---------------------------------------------------------------

    async def _texts(self, solver: TextBackend, problem: Problem) -> list[str]:
        """As many samples as the budget allows, in the order of their numbers."""
        found = await asyncio.gather(
            *(self._text(solver, problem, number) for number in range(self._samples))
        )
        return [text for text in found if text is not None]

    async def _text(self, solver: TextBackend, problem: Problem, number: int) -> str | None:
        messages = with_instruction(problem.messages, self._instruction)
        sampling = seeded(self._sampling, seed_of(problem.id, self.name, number))
        try:
            return await ask(solver, messages, sampling)
        except BudgetSpent:
            return None


def most_votes(keys: Sequence[str]) -> str:
    """The key with the most votes, the first of equals; "" when nobody votes."""
    votes = Counter(key for key in keys if key)
    return max(votes, key=lambda key: votes[key], default="")


def seeded(sampling: SamplingParams, seed: int) -> SamplingParams:
    return replace(sampling, seed=seed)


async def by_final_answer(problem: Problem, text: str) -> str:
    """The key of questions: case, spaces and thousands' commas do not count."""
    return "".join(final_answer(text).lower().split())


def make_majority(
    roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]
) -> Majority:
    config = from_mapping(VotesConfig, settings)
    return Majority(
        roles,
        samples=config.samples,
        temperature=config.temperature,
        key=by_final_answer,
        max_new_tokens=config.max_new_tokens,
        instruction=THINK,
        finish=lambda text: marked_answer(text) or text,
    )
