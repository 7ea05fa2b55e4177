"""What a policy is: the order of those who wait, and the account of what each tenant got.

    push -> order ... admit -> made, made, ... -> finish
      ^        discard (it gave up)     |
      +------------ push(front) --------+  preempted: it goes on where it was

Whether there is room is the step's business (`step.py`); a policy never sees memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from evolute.engine.scheduling.policies.ageing import CachedTokens as CachedTokens
from evolute.engine.scheduling.sequence import Sequence

IsReady = Callable[[Sequence], bool]


def anyone(sequence: Sequence) -> bool:
    """Everybody is ready."""
    return True


@dataclass(frozen=True, slots=True)
class Share:
    """One tenant, as seen from outside. Service is in the policy's cost units."""

    tenant: str
    running: int
    waiting: int
    service: float  # charged since it was first seen
    weight: float
    lag: float  # how far it is ahead of the least served one that waits; below 0: it is owed


class Policy(Protocol):
    """Waiting sequences in an order, and what is charged for them."""

    is_strict: bool  # when the first cannot go on, nobody behind it is looked at
    newest_first: bool  # under more load than can be served in time: whose deadline is farthest

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        """It waits from now on; `front`: it ran before and was preempted."""

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        """Lazy: nothing is matched before somebody asks for the first.

        `admitted` grows while the caller admits; the next one is chosen knowing that, and who is
        in it is not named again. Nothing is charged here.
        """

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        """It runs from now on; `num_cached` of its tokens need not be computed."""

    def adopt(self, sequence: Sequence) -> None:
        """It was admitted under another policy, which charged for what it did so far."""

    def made(self, sequence: Sequence) -> None:
        """One more output token was made for it."""

    def finish(self, sequence: Sequence) -> None:
        """It runs no more, at its end or aborted; `num_computed` still says how far it came."""

    def discard(self, sequence: Sequence) -> None:
        """It gives up; of no effect when it does not wait."""

    def victim(self, running: Iterable[Sequence], is_ready: IsReady = anyone) -> Sequence | None:
        """Who should make room for somebody who waits, now that there is none; None: nobody.
        `is_ready`: room is all that this one waits for."""

    def turn(self, sequence: Sequence) -> float:
        """Of prompts already begun, the one with the least is computed first."""

    def explain(self, sequence: Sequence) -> str:
        """Why those before it are before it, for the person who waits."""

    def shares(self) -> list[Share]: ...

    def __len__(self) -> int:
        """How many wait."""

    def __iter__(self) -> Iterator[Sequence]:
        """Those who wait, in the order of their arrival within a tenant."""
