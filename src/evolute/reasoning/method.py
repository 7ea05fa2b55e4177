"""How is a problem solved with more than one call? The seam of all methods.

    Method.solve(problem, account) -> Solution
    Roles                      which model plays which part
    seed_of(problem, *parts)   the seed of one call: the same in every run

`evolute eval TASK --method NAME` grades `Solution.text` with the task's own world, so a method
never sees how it is judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from evolute.lang.account import Account
from evolute.lang.backend import TextBackend
from evolute.types import Problem


@dataclass(frozen=True, slots=True)
class Solution:
    """What a method answers. `text` is the action that the task's world is given.

    An exhausted budget, an empty candidate set or a judge that talks nonsense is a solution too:
    `reason` says how it came about in one word of the method's own list.
    """

    text: str
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)  # plain JSON, for samples.jsonl


@dataclass(frozen=True, slots=True)
class Roles:
    """Models by part: "solver" and whatever the method adds; an unnamed part is the solver's."""

    solver: TextBackend
    others: Mapping[str, TextBackend] = field(default_factory=dict)

    def of(self, part: str) -> TextBackend:
        return self.others.get(part, self.solver)


@runtime_checkable
class Method(Protocol):
    """Solves problems one at a time; many at once from one event loop.

    Model failures (BackendError, OutOfCapacity) end the problem and rise; RequestError too.
    BudgetSpent never leaves `solve`: it answers with the best it has.
    """

    @property
    def name(self) -> str: ...

    async def solve(self, problem: Problem, account: Account) -> Solution: ...


def seed_of(problem: str, *parts: object) -> int:
    """48 bits from the problem's id and what tells one call from another."""
    key = "/".join([problem, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
