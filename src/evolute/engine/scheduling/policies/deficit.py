"""Deficit longest prefix match: fairness between tenants, locality within what each is owed.

    Dlpm    quantum by quantum; among tenants with a deficit left, the longest cached prefix

Each tenant's deficit = what it was granted - its service. Sequences of tenants whose deficit is
above 0 go in the order of their cached prefix; when no tenant that waits has any left, all get
one quantum Q more. After "Locality-aware fair scheduling in LLM serving" (2501.14312), section 4;
the bound is derived here.

A tenant that waits has a deficit in (-U, Q]:
  above: a grant comes only when all that wait are at or below 0; who returns is cut to Q.
  below: it was above 0 at its last admission. Since then it was charged that admission, at most
  w_p L, and the outputs of its sequences that ran: U = w_p L + w_q M, or w_q M H_n in place of
  w_q M where memory that one frees is filled again (`counter.py`).
  With outputs charged ahead (`engine.predict`), what is charged and not made yet counts in U
  too, and a refund may lift a deficit above Q for as long.
Two tenants that wait all the time get the same grants, so |W_f - W_g| = |d_g - d_f| at the end
less that at the start <= 2 (Q + U). If f waits all the time and g does not, g is granted no more
than f, and W_f >= W_g - 2 (Q + U), unless g was forgotten among a thousand that asked for nothing
(`counter.py`). With weights, W is service divided by the weight.

A sequence that is preempted for another tenant stays charged and is not charged again, so the
bound does not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from evolute.engine.scheduling.policies.arrival import MAX_PASSES, WINDOW, count_passed
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.policy import CachedTokens
from evolute.engine.scheduling.policies.service import Account, Ledger
from evolute.engine.scheduling.sequence import Sequence


class Dlpm(Vtc):
    """Accounts and arrival as in `Vtc`; grants instead of lifts, prefixes instead of heads."""

    is_strict = False

    def __init__(self, ledger: Ledger, quantum: float) -> None:
        super().__init__(ledger)
        self.quantum = quantum
        self._granted = quantum  # to every tenant since the start; nobody begins at 0

    def set_quantum(self, quantum: float) -> None:
        """Nobody keeps more than the new one."""
        self.quantum = quantum
        for account in self._accounts():
            self._lift(account)

    def deficit(self, account: Account) -> float:
        """What the tenant may still be served before the others' turn."""
        return self._granted - account.counter

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        waiting = {a.tenant: len(a.waiting) for a in self._accounts() if a.waiting}
        left = {tenant: self.deficit(self.ledger.accounts[tenant]) for tenant in waiting}
        seen: set[Sequence] = set()
        while left:
            if max(left.values()) <= 0:
                grant = self._grant(left.values())
                left = {tenant: deficit + grant for tenant, deficit in left.items()}
            window = self._window([t for t, deficit in left.items() if deficit > 0], seen)
            if not window:
                return  # those that may be served more wait for a sibling
            for sequence in self._ranked(window, cached_tokens):
                tenant = sequence.tenant
                if left[tenant] <= 0:
                    continue
                num_admitted = len(admitted)
                seen.add(sequence)
                yield sequence
                if len(admitted) > num_admitted:
                    left[tenant] -= self.ledger.price(sequence, cached_tokens(sequence))
                    waiting[tenant] -= 1
            left = {tenant: deficit for tenant, deficit in left.items() if waiting[tenant]}

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        account = self.ledger.account(sequence)
        if self.deficit(account) <= 0:
            self._granted += self._grant([self.deficit(a) for a in self._accounts() if a.waiting])
        count_passed(account.waiting, sequence)
        sequence.is_displaced = False
        super().admit(sequence, num_cached)

    def victim(self, running: Iterable[Sequence]) -> Sequence | None:
        """A tenant with nothing running takes a place of the one with the most."""
        accounts = list(self._accounts())
        busiest = max(accounts, key=lambda a: len(a.running), default=None)
        if busiest is None or len(busiest.running) < 2:
            return None
        if not any(self._is_shut_out(account, busiest) for account in accounts):
            return None
        latest = [s for s in running if s in busiest.running][::-1]
        return min(latest, key=lambda s: s.num_generated, default=None)

    def turn(self, sequence: Sequence) -> float:
        """Tenants with few places first."""
        return float(len(self.ledger.account(sequence).running))

    def explain(self, sequence: Sequence) -> str:
        account = self.ledger.account(sequence)
        ahead = list(account.waiting).index(sequence) if sequence in account.waiting else 0
        return (
            f"tenant {account.tenant!r} may be served {self.deficit(account):.0f} more before the "
            f"others' turn (quantum {self.quantum:.0f}); within that the longest cached prefix is "
            f"first: {ahead} of its own came before this one, which was passed over "
            f"{sequence.passed_over} times"
        )

    # -- internals -------------------------------------------------------------

    def _is_shut_out(self, account: Account, busiest: Account) -> bool:
        """It waits with nothing running, is owed more than the busiest, and was not displaced."""
        if account.running or not account.waiting:
            return False
        is_owed = account.counter < busiest.counter
        return is_owed and not next(iter(account.waiting)).is_displaced

    def _lift(self, account: Account) -> None:
        """No grants are saved up while nothing is asked for; debts are paid off meanwhile."""
        account.lifted += max(self.deficit(account) - self.quantum, 0.0)

    def _settled(self) -> float:
        return self._granted - self.quantum

    def _grant(self, deficits: Iterable[float]) -> float:
        """Whole quanta until one of these deficits is above 0."""
        return (math.floor(-max(deficits) / self.quantum) + 1) * self.quantum

    def _window(self, tenants: list[str], seen: set[Sequence]) -> list[Sequence]:
        """Up to WINDOW sequences not seen yet, the tenants in turn."""
        window: list[Sequence] = []
        queues = [iter(self.ledger.accounts[tenant].waiting) for tenant in tenants]
        while queues and len(window) < WINDOW:
            for queue in list(queues):
                sequence = next((s for s in queue if s not in seen), None)
                if sequence is None:
                    queues.remove(queue)
                else:
                    window.append(sequence)
        return window[:WINDOW]

    def _ranked(self, window: list[Sequence], cached_tokens: CachedTokens) -> list[Sequence]:
        """Tenants with nothing running first, then those passed over too often, then prefixes."""
        accounts = self.ledger.accounts

        def rank(sequence: Sequence) -> tuple[bool, bool, int]:
            has_running = bool(accounts[sequence.tenant].running)
            return has_running, sequence.passed_over < MAX_PASSES, -cached_tokens(sequence)

        return sorted(window, key=rank)
