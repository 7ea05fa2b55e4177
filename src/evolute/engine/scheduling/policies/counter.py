"""Virtual token counters: the least served tenant is next (VTC, algorithm 2).

    Vtc     non-preemptive; the head of the least served tenant is never skipped

Bound (lemma 4.3, theorem 4.4): counters of tenants that wait differ by at most
U = max(w_p L, w_q M) for prompts up to L and a pool of M tokens; two tenants that wait all the
time get service within 2U of one another. The proof counts what the sequences of one batch make
after the last admission as at most M. That holds when each has room of its own to its end; when
memory that one frees is filled by another, it is M H_n for n sequences, with
H_n = 1 + 1/2 + ... + 1/n (the k-th longest of what remains is at most M / k).

Tenants without end would take memory without end: of those that ask for nothing only the KEPT
accounts with the largest counters are remembered. Who is forgotten returns as a new tenant.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from evolute.engine.scheduling.policies.ageing import in_turn, put
from evolute.engine.scheduling.policies.policy import CachedTokens, IsReady, Share, anyone
from evolute.engine.scheduling.policies.service import Account, Ledger
from evolute.engine.scheduling.policies.standing import Rank, Standing
from evolute.engine.scheduling.sequence import Sequence

KEPT = 1024  # accounts of tenants that ask for nothing


class Vtc:
    """A tenant's counter is its service; who returns is lifted to those that wait."""

    is_strict = True

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.newest_first = ledger, False
        self._num_waiting = self._arrivals = 0
        self._arrived: dict[Sequence, int] = {}
        self._standing = Standing(self._rank)
        self._last_left: Account | None = None  # the tenant that emptied its queue last
        self._forget_at = 2 * KEPT

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        account = self.ledger.account(sequence)
        self.ledger.preempt(sequence)
        if not account.waiting:
            self._lift(account)
        put(account.waiting, sequence, front=front)
        self._arrivals += 1
        self._arrived.setdefault(sequence, self._arrivals)
        self._num_waiting += 1
        self._standing.touch(account)

    def order(self, cached_tokens: CachedTokens, admitted: list[Sequence]) -> Iterator[Sequence]:
        """The head of the tenant with the least counter, those just admitted counted in."""
        spent, taken = self._spent(admitted, cached_tokens), set(admitted)
        walk = iter(self._standing)
        following = next(walk, None)
        heads: list[tuple[Rank, Sequence, Iterator[Sequence]]] = []  # of tenants reached so far
        while following is not None or heads:
            while following is not None and (not heads or self._rank(following) < heads[0][0]):
                queue = (s for s in self._turns(following) if s not in taken)
                self._line_up(heads, following.counter + spent.get(following.tenant, 0.0), queue)
                following = next(walk, None)
            if not heads:
                return
            (counter, _), sequence, rest = heapq.heappop(heads)
            num_admitted = len(admitted)
            yield sequence
            if len(admitted) > num_admitted:
                counter += self.ledger.price(sequence, cached_tokens(sequence))
            self._line_up(heads, counter, rest)

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        self._leave(sequence)
        self.ledger.admit(sequence, num_cached)
        self._standing.touch(self.ledger.account(sequence))

    def adopt(self, sequence: Sequence) -> None:
        self.ledger.adopt(sequence)
        self._arrivals += 1
        self._arrived.setdefault(sequence, self._arrivals)

    def made(self, sequence: Sequence) -> None:
        account = self.ledger.made(sequence)
        if account is not None:
            self._standing.raised(account)

    def finish(self, sequence: Sequence) -> None:
        self.ledger.finish(sequence)
        self._arrived.pop(sequence, None)
        self._standing.touch(self.ledger.account(sequence))
        self._forget_idle()

    def discard(self, sequence: Sequence) -> None:
        if sequence in self.ledger.account(sequence).waiting:
            self._leave(sequence)
            self.finish(sequence)

    def set_weights(self, weights: dict[str, float]) -> None:
        """Counters stay where they are; what comes is divided by the new weights."""
        self.ledger.set_weights(weights)
        for account in self._accounts():
            self._standing.touch(account)

    def victim(self, running: Iterable[Sequence], is_ready: IsReady = anyone) -> Sequence | None:
        return None

    def turn(self, sequence: Sequence) -> float:
        return 0.0

    def explain(self, sequence: Sequence) -> str:
        account = self.ledger.account(sequence)
        before = sum(a.counter < account.counter for a in self._accounts() if a.waiting)
        ahead = list(account.waiting).index(sequence) if sequence in account.waiting else 0
        return (
            f"least served tenant first: {account.tenant!r} counts as served "
            f"{account.counter:.0f} and {before} waiting tenants were served less; "
            f"{ahead} of its own are before this one"
        )

    def shares(self) -> list[Share]:
        return self.ledger.shares()

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for account in self._accounts() for sequence in account.waiting)

    # -- internals -------------------------------------------------------------

    def _accounts(self) -> Iterable[Account]:
        return self.ledger.accounts.values()

    def _lift(self, account: Account) -> None:
        """No credit is saved up while nothing is asked for."""
        account.lifted += max(self._level() - account.counter, 0.0)

    def _level(self) -> float:
        """Counter of the least served tenant that waits, else of the one that waited last."""
        least = self._standing.first() or self._last_left
        return least.counter if least else 0.0

    def _leave(self, sequence: Sequence) -> None:
        account = self.ledger.account(sequence)
        del account.waiting[sequence]
        self._num_waiting -= 1
        if not account.waiting:
            self._last_left = account
        self._standing.touch(account)

    def _rank(self, account: Account) -> Rank:
        return account.counter, self._arrived[next(iter(account.waiting))]

    def _turns(self, account: Account) -> Iterator[Sequence]:
        return in_turn(account.waiting, newest_first=self.newest_first)

    def _spent(self, admitted: list[Sequence], cached_tokens: CachedTokens) -> dict[str, float]:
        """What those that a step admitted so far will be charged, by tenant."""
        spent: dict[str, float] = {}
        for sequence in admitted:
            price = self.ledger.price(sequence, cached_tokens(sequence))
            spent[sequence.tenant] = spent.get(sequence.tenant, 0.0) + price
        return spent

    def _line_up(
        self,
        heads: list[tuple[Rank, Sequence, Iterator[Sequence]]],
        counter: float,
        queue: Iterator[Sequence],
    ) -> None:
        """Its next one, if there is any, takes its place among the heads of all queues."""
        sequence = next(queue, None)
        if sequence is not None:
            heapq.heappush(heads, ((counter, self._arrived[sequence]), sequence, queue))

    def _settled(self) -> float:
        """A counter at or below this would be lifted to it: it says nothing."""
        return self._level()

    def _forget_idle(self) -> None:
        """Accounts that owe nothing, and but for KEPT of them those that owe least."""
        accounts = self.ledger.accounts
        if len(accounts) <= self._forget_at:
            return
        settled = self._settled()
        owing = [a for a in accounts.values() if a.is_idle and a.counter > settled]
        owing.sort(key=lambda account: account.counter)
        kept = {a.tenant for a in owing[-KEPT:]}
        self.ledger.accounts = {t: a for t, a in accounts.items() if not a.is_idle or t in kept}
        self._forget_at = 2 * max(KEPT, len(self.ledger.accounts))
