"""A search over thoughts: Tree of Thoughts (Yao et al. 2023), breadth first.

TreeOfThoughts(roles, config)

At each depth every kept partial solution is asked for next steps; each new one is valued by the
model ("sure", "likely", "impossible", several times) and the best `breadth` are kept. At the end
the best one is asked for its answer. Roles: `solver` proposes and answers, `judge` values.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.answers import marked_answer
from evolute.reasoning.asking import ask
from evolute.reasoning.baselines.plain import with_instruction
from evolute.reasoning.method import Roles, Solution, seed_of
from evolute.types import BudgetSpent, ConfigError, Problem, SamplingParams
from evolute.types.settings import from_mapping

VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}  # the paper's weights
Steps = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """`breadth` 5 and `depth` 3 are what the paper takes for game of 24."""

    breadth: int = 5
    depth: int = 3
    proposals: int = 8  # next steps read from one answer
    votes: int = 3  # valuations of each partial solution
    temperature: float = 0.7
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("breadth", "depth", "proposals", "votes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tree_of_thoughts with {name} below 1; give at least 1.")


class TreeOfThoughts:
    """Reasons: `searched`, `budget` (the search ended early; the best steps so far are answered
    with where a call is left, else they are the answer)."""

    name = "tree_of_thoughts"

    def __init__(self, roles: Roles, config: TreeConfig | None = None) -> None:
        self._roles, self._config = roles, config or TreeConfig()

    async def solve(self, problem: Problem, account: Account) -> Solution:
        search = _Search(self._roles, self._config, problem, account)
        reason, kept = "searched", [Steps()]
        for _ in range(self._config.depth):
            try:
                kept = await search.deeper(kept) or kept
            except BudgetSpent:
                reason = "budget"
                break
        try:
            text = await search.answer(kept[0])
        except BudgetSpent:
            return Solution("\n".join(kept[0]), "budget", {"steps": list(kept[0])})
        details = {"steps": list(kept[0]), "text": text}
        return Solution(marked_answer(text) or text, reason, details)


class _Search:
    def __init__(self, roles: Roles, config: TreeConfig, problem: Problem, account: Account):
        self._solver = Metered(roles.of("solver"), account, "solver")
        self._judge = Metered(roles.of("judge"), account, "judge")
        self._config, self._problem = config, problem
        self._value_by_steps: dict[Steps, float] = {}

    async def deeper(self, kept: Sequence[Steps]) -> list[Steps]:
        """The best `breadth` partial solutions one step longer; of equals the first proposed."""
        found = await asyncio.gather(*(self._next(steps) for steps in kept))
        longer = list(dict.fromkeys(steps for some in found for steps in some))
        values = await asyncio.gather(*(self._value(steps) for steps in longer))
        order = sorted(range(len(longer)), key=lambda k: -values[k])
        return [longer[k] for k in order[: self._config.breadth]]

    async def answer(self, steps: Steps) -> str:
        said = f"Steps so far:\n{_listed(steps)}\nFinish. End with one line: Answer: ..."
        return await self._ask(self._solver, said if steps else "End with: Answer: ...", "answer")

    # -- internals ---------------------------------------------------------------

    async def _next(self, steps: Steps) -> list[Steps]:
        limit = self._config.proposals
        said = f"Steps so far:\n{_listed(steps)}\n" if steps else ""
        said += f"Propose up to {limit} different possible next steps, one a line, nothing else."
        text = await self._ask(self._solver, said, "propose", *steps)
        lines = [re.sub(r"^\s*(?:[-*]|\d+[.)])\s*", "", line).strip() for line in text.splitlines()]
        return [(*steps, line) for line in dict.fromkeys(lines) if line][:limit]

    async def _value(self, steps: Steps) -> float:
        """Summed over votes; equal partial solutions are valued once."""
        if steps not in self._value_by_steps:
            votes = range(self._config.votes)
            said = (
                f"Steps so far:\n{_listed(steps)}\nCan these steps still lead to the right answer? "
                "Answer with one word: sure, likely or impossible."
            )
            texts = await asyncio.gather(
                *(self._ask(self._judge, said, "value", vote, *steps) for vote in votes)
            )
            self._value_by_steps[steps] = sum(map(_vote, texts))
        return self._value_by_steps[steps]

    async def _ask(self, backend: Metered, said: str, *parts: object) -> str:
        config = self._config
        seed = seed_of(self._problem.id, TreeOfThoughts.name, *parts)
        sampling = SamplingParams(config.max_new_tokens, temperature=config.temperature, seed=seed)
        return await ask(backend, with_instruction(self._problem.messages, said), sampling)


def make_tree_of_thoughts(
    roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]
) -> TreeOfThoughts:
    return TreeOfThoughts(roles, from_mapping(TreeConfig, settings))


# -- internals ---------------------------------------------------------------


def _listed(steps: Steps) -> str:
    return "\n".join(steps)


def _vote(text: str) -> float:
    """The last of the three words that the text says; none is worth nothing."""
    said = re.findall(r"sure|likely|impossible", text.lower())
    return VALUES[said[-1]] if said else 0.0
