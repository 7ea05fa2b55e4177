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

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from evolute.engine.scheduling.policies.ageing import (
    LAST_PASS,
    WINDOW,
    count_passed,
    ranks,
)
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.policy import CachedTokens, IsReady, anyone
from evolute.engine.scheduling.policies.service import Account, Ledger
from evolute.engine.scheduling.sequence import Sequence

ASKED = 4  # of a tenant that is shut out: could one of them use a place?
MAX_ASKED = 32  # of all such tenants


@dataclass(slots=True)
class _Step:
    """What the order of one step knows beyond the accounts: nothing is charged in them yet."""

    granted: float
    spent: dict[str, float]  # by tenant, of those admitted in this step
    taken: Counter[str]  # how many those are
    seen: set[Sequence]  # named in this step, admitted or not
    held: set[str] = field(default_factory=set)  # tenants of which nobody more is named

    def deficit(self, account: Account) -> float:
        return self.granted - account.counter - self.spent.get(account.tenant, 0.0)

    def num_left(self, account: Account) -> int:
        return len(account.waiting) - self.taken[account.tenant]

    def take(self, account: Account, price: float) -> None:
        self.spent[account.tenant] = self.spent.get(account.tenant, 0.0) + price
        self.taken[account.tenant] += 1


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
            self._standing.touch(account)

    def deficit(self, account: Account) -> float:
        """What the tenant may still be served before the others' turn."""
        return self._granted - account.counter

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        taken = Counter(s.tenant for s in admitted)
        step = _Step(self._granted, self._spent(admitted, cached_tokens), taken, set(admitted))
        while True:
            window, is_any_left = self._window(step)
            if not is_any_left:
                grant = self._next_grant(step)
                if grant is None:
                    return
                step.granted += grant
                continue
            if not window:
                return  # those that may be served more wait for a sibling
            for sequence in self._ranked(window, cached_tokens):
                account = self.ledger.account(sequence)
                if account.tenant in step.held or step.deficit(account) <= 0:
                    continue
                num_admitted = len(admitted)
                step.seen.add(sequence)
                yield sequence
                if len(admitted) > num_admitted:
                    step.take(account, self.ledger.price(sequence, cached_tokens(sequence)))
                elif sequence.passed_over >= LAST_PASS:
                    step.held.add(account.tenant)  # none of its own passes it any more

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        account = self.ledger.account(sequence)
        if self.deficit(account) <= 0:
            least = self._standing.first()
            assert least is not None, "a sequence is admitted that does not wait"
            self._granted += self._grant(self.deficit(least))
        count_passed(account.waiting, sequence, newest_first=self.newest_first)
        sequence.is_displaced = False
        super().admit(sequence, num_cached)

    def victim(self, running: Iterable[Sequence], is_ready: IsReady = anyone) -> Sequence | None:
        """A tenant with nothing running takes a place of the one with the most."""
        runs = list(running)
        tenants = {s.tenant: self.ledger.account(s) for s in runs}
        busiest = max(tenants.values(), key=lambda a: len(a.running), default=None)
        if busiest is None or len(busiest.running) < 2:
            return None
        if not self._is_one_shut_out(busiest, is_ready):
            return None
        latest = [s for s in runs if s in busiest.running][::-1]
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

    def _is_one_shut_out(self, busiest: Account, is_ready: IsReady) -> bool:
        """A tenant that waits with nothing running is owed more than the busiest, was not displaced
        and would take the place: its first few do not all wait for something else."""
        num_asked = 0
        for account in self._standing:
            if account.counter >= busiest.counter or num_asked >= MAX_ASKED:
                return False
            if account.running or next(iter(account.waiting)).is_displaced:
                continue
            first = list(islice(self._turns(account), ASKED))
            num_asked += len(first)
            if any(map(is_ready, first)):
                return True
        return False

    def _lift(self, account: Account) -> None:
        """No grants are saved up while nothing is asked for; debts are paid off meanwhile."""
        account.lifted += max(self.deficit(account) - self.quantum, 0.0)

    def _settled(self) -> float:
        return self._granted - self.quantum

    def _grant(self, most: float) -> float:
        """Whole quanta until the largest deficit is above 0."""
        return (math.floor(-most / self.quantum) + 1) * self.quantum

    def _next_grant(self, step: _Step) -> float | None:
        """For those that still wait; None when nobody does. Whoever was not charged in this step
        stands where he stood, so the first of them has the most."""
        most = -math.inf
        for account in self._standing:
            if step.num_left(account):
                most = max(most, step.deficit(account))
            if account.tenant not in step.spent and step.num_left(account):
                break
        return None if most == -math.inf else self._grant(most)

    def _window(self, step: _Step) -> tuple[list[Sequence], bool]:
        """Up to WINDOW sequences not seen yet, of tenants with a deficit left in turn, the least
        served first; and whether any such tenant has somebody waiting, seen or not."""
        queues, is_any_left = list[Iterator[Sequence]](), False
        is_first = not step.seen  # so nobody is charged, taken or held yet
        turns_of = self._turns if self.newest_first else _waiting
        for account in self._standing:
            if account.service + account.lifted >= step.granted or len(queues) == WINDOW:
                break
            if is_first:
                queues.append(turns_of(account))
                continue
            if step.deficit(account) <= 0 or not step.num_left(account):
                continue
            is_any_left = True
            if account.tenant not in step.held:
                turns = (s for s in turns_of(account) if s not in step.seen)
                first = next(turns, None)
                if first is not None:
                    queues.append(chain((first,), turns))
        return _round_robin(queues, WINDOW), is_any_left or (is_first and bool(queues))

    def _ranked(self, window: list[Sequence], cached_tokens: CachedTokens) -> Iterator[Sequence]:
        """Tenants with nothing running first, then those passed over too often, then prefixes.
        Lazy, as the first is often the only one that is wanted."""
        accounts = self.ledger.accounts
        heap = [
            (bool(accounts[s.tenant].running), *rank, place)
            for place, (s, rank) in enumerate(zip(window, ranks(window, cached_tokens)))
        ]
        heapq.heapify(heap)
        while heap:
            yield window[heapq.heappop(heap)[-1]]


def _waiting(account: Account) -> Iterator[Sequence]:
    return iter(account.waiting)


def _round_robin(queues: list[Iterator[Sequence]], most: int) -> list[Sequence]:
    found: list[Sequence] = []
    while queues and len(found) < most:
        heads = [next(queue, None) for queue in queues]
        if None in heads:
            queues = [queue for queue, head in zip(queues, heads) if head is not None]
        found += [head for head in heads if head is not None]
    return found[:most]
