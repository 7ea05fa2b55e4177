"""Which of the tenants that wait was served least? Kept up to date, never sorted anew.

standing.touch(account)     its counter changed, or its queue did; constant time
standing.first()            the least served one; None: nobody waits
iter(standing)              from the least served on; logarithmic time for each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from evolute.engine.scheduling.ordered import Ordered
from evolute.engine.scheduling.policies.service import Account

Rank = tuple[float, int]  # counter; of equals, whose head came first


class Standing:
    """Of accounts that have somebody waiting. `touch` is enough: who does not wait drops out.

    Accounts change with every token, and are looked at when somebody may be admitted: so what was
    touched is put in order only then.
    """

    def __init__(self, rank: Callable[[Account], Rank]) -> None:
        self._rank = rank
        self._accounts: Ordered[Account] = Ordered()
        self._touched: dict[Account, None] = {}

    def touch(self, account: Account) -> None:
        self._touched[account] = None

    def first(self) -> Account | None:
        self._settle()
        first = self._accounts.first()
        return first[1] if first else None

    def __iter__(self) -> Iterator[Account]:
        """Not to be asked again before this walk has ended."""
        self._settle()
        return (account for _, account in self._accounts.walk())

    def _settle(self) -> None:
        for account in self._touched:
            if account.waiting:
                self._accounts.put(account, self._rank(account))
            else:
                self._accounts.discard(account)
        self._touched.clear()
