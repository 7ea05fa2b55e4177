"""Which of the tenants that wait was served least? Kept up to date, never sorted anew.

standing.touch(account)     its counter changed, or its queue did; constant time
standing.raised(account)    its counter has only grown; constant time
standing.first()            the least served one; None: nobody waits
iter(standing)              from the least served on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from evolute.engine.scheduling.ordered import Ordered
from evolute.engine.scheduling.policies.service import Account

Rank = tuple[float, int]  # counter; of equals, whose head came first


class Standing:
    """Of accounts that have somebody waiting. `touch` is enough: who does not wait drops out.

    Accounts change with every token, and are looked at when somebody may be admitted: so what was
    touched is put in order only then, and who was only raised when a look comes as far.
    """

    def __init__(self, rank: Callable[[Account], Rank]) -> None:
        self._rank = rank
        self._accounts: Ordered[Account] = Ordered()
        self._touched: dict[Account, None] = {}
        self._raised: dict[Account, None] = {}  # of those in order

    def touch(self, account: Account) -> None:
        self._touched[account] = None

    def raised(self, account: Account) -> None:
        if account.waiting:
            self._raised[account] = None

    def first(self) -> Account | None:
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Account]:
        """Not to be asked again before this walk has ended."""
        self._settle()
        return (account for _, account in self._accounts.walk(self._raised, _counter))

    def _settle(self) -> None:
        for account in self._touched:
            self._raised.pop(account, None)
            if account.waiting:
                self._accounts.put(account, *self._rank(account))
            else:
                self._accounts.discard(account)
        self._touched.clear()


def _counter(account: Account) -> float:
    return account.service + account.lifted
