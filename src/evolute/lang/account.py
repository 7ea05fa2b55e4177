"""What did the calls of a program or of a method cost, and how much may they still?

    Spent                       what was asked of a model: calls and tokens; adds up
    Budget(calls, tokens)       what may be spent at most
    Account(budget)             reserve before a call, settle after it; by role
    account.part(name, budget)  a share of it with a limit of its own
    account.saved(role)         a call that was not needed

Tokens are those that an endpoint bills: of the prompt, cached or not, and of the output. A call is
refused before it is sent, so a budget is kept without losing what was paid for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

from evolute.types import BudgetSpent, ConfigError


@dataclass(frozen=True, slots=True)
class Spent:
    """Exact counts, where the backend tells them."""

    calls: int = 0  # requests sent, prefix hints and scoring included
    prompt_tokens: int = 0  # as billed: every call counts its whole prompt
    cached_tokens: int = 0  # of these, reused and not computed
    output_tokens: int = 0
    calls_saved: int = 0  # answered from what an earlier call wrote too much

    @property
    def tokens(self) -> int:
        """What budgets count."""
        return self.prompt_tokens + self.output_tokens

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that went through the model, and the output's."""
        return self.prompt_tokens - self.cached_tokens + self.output_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one problem or program; None: no limit. Raises ConfigError below 0."""

    calls: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("calls", self.calls), ("tokens", self.tokens)):
            if value is not None and value < 0:
                raise ConfigError(f"a budget of {value} {name} cannot be kept; give 0 or more.")


@dataclass(slots=True, eq=False)
class Reservation:
    """What a call may cost at most. Open until `Account.settle` or `Account.cancel`."""

    role: str
    tokens: int
    is_open: bool = True


class Account:
    """Thread-safe. Invariant: what is spent and reserved never exceeds the budget, save by tokens
    that a call cost beyond its reservation (a backend that cannot count its prompt beforehand).
    """

    def __init__(
        self, budget: Budget | None = None, name: str = "", parent: Account | None = None
    ) -> None:
        self.budget, self.name = budget or Budget(), name
        self._parent = parent
        self._lock: threading.RLock = parent._lock if parent else threading.RLock()
        self._spent: dict[str, Spent] = {}
        self._reserved_calls = self._reserved_tokens = 0

    @property
    def spent(self) -> Spent:
        """Of all roles, parts included."""
        with self._lock:
            return sum(self._spent.values(), Spent())

    @property
    def by_role(self) -> dict[str, Spent]:
        with self._lock:
            return dict(self._spent)

    @property
    def left(self) -> Budget:
        """What may still be reserved; the narrowest limit on the way up. Never below 0."""
        with self._lock:
            own = self._left()
            above = self._parent.left if self._parent else Budget()
        return Budget(_least(own.calls, above.calls), _least(own.tokens, above.tokens))

    def part(self, name: str, budget: Budget | None = None) -> Account:
        """An account whose spending counts here too."""
        return Account(budget, name, self)

    def reserve(self, role: str, tokens: int) -> Reservation:
        """Set a call of at most `tokens` aside. Raises BudgetSpent, with nothing changed."""
        with self._lock:
            left = self.left
            if left.calls is not None and left.calls < 1:
                raise BudgetSpent(self._refusal("no call is left", role, tokens))
            if left.tokens is not None and left.tokens < tokens:
                raise BudgetSpent(self._refusal(f"{left.tokens} tokens are left", role, tokens))
            self._hold(1, tokens)
        return Reservation(role, tokens)

    def settle(self, reservation: Reservation, spent: Spent) -> None:
        """The call was made; what it did not need is free again."""
        self._close(reservation, spent)

    def cancel(self, reservation: Reservation) -> None:
        """The call was not made."""
        self._close(reservation, Spent())

    def saved(self, role: str, calls: int = 1) -> None:
        """Calls that an earlier one had answered already."""
        with self._lock:
            self._charge(role, Spent(calls_saved=calls))

    # -- internals ---------------------------------------------------------------

    def _close(self, reservation: Reservation, spent: Spent) -> None:
        with self._lock:
            assert reservation.is_open, "a reservation is closed once"
            reservation.is_open = False
            self._hold(-1, -reservation.tokens)
            if spent != Spent():
                self._charge(reservation.role, spent)

    def _hold(self, calls: int, tokens: int) -> None:
        self._reserved_calls += calls
        self._reserved_tokens += tokens
        if self._parent:
            self._parent._hold(calls, tokens)

    def _charge(self, role: str, spent: Spent) -> None:
        self._spent[role] = self._spent.get(role, Spent()) + spent
        if self._parent:
            self._parent._charge(role, spent)

    def _left(self) -> Budget:
        spent = sum(self._spent.values(), Spent())
        calls, tokens = self.budget.calls, self.budget.tokens
        return Budget(
            None if calls is None else max(0, calls - spent.calls - self._reserved_calls),
            None if tokens is None else max(0, tokens - spent.tokens - self._reserved_tokens),
        )

    def _refusal(self, what: str, role: str, tokens: int) -> str:
        whose = f" of {self.name}" if self.name else ""
        return (
            f"a call of {role or 'a model'} may cost {tokens} tokens, but {what} in the "
            f"budget{whose}. Raise the budget, or lower max_new_tokens."
        )


def _least(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known) if known else None
