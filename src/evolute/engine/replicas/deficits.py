"""Double deficit longest prefix match: locality, as far as balance and fairness allow.

    D2lpm(quantum)     a deficit for each tenant at each replica; within it, the longest prefix

After "Locality-aware fair scheduling in LLM serving" (2501.14312), section 4: this is the outer of
the two deficits, each replica's own `dlpm` the inner one (`scheduling/policies/deficit.py`). The
bounds are derived here. A request of tenant i goes

  1. among replicas whose deficit for i is above 0, and of those that could begin it at once, to
     the one with the longest cached prefix; with none cached, to the least loaded;
  2. when no replica has a deficit above 0 left for i, all get as many quanta Q as that takes,
     first;
  3. when every replica with a deficit is full and another is not, to the least loaded of those
     that are not, and charged to nobody: they would be idle otherwise;
  4. when all are full, as in 1, to one that has a deficit.

What is charged at once: prompt tokens not cached there, and the outputs that the tenant's last ones
predict. At its end the difference to what was computed and made is charged or given back. Let V be
the most that is charged for one request at once, and E the most that ends may still change for
the requests of one tenant at one replica (0 when predictions are exact).

Balance. The deficit of i at w lies in (-V - E, Q + E]. Above: when quanta are granted all are at or
  below 0, so none is above Q after; only what is given back raises it later. Below: it was above 0
  when w was last chosen; since then it fell by that charge, at most V, and by ends. All replicas
  got the same grants, so what i was charged at two of them differs by at most D = Q + V + 2E at
  any time, and over any interval by 2D. Summed over n tenants: two replicas get charged work
  within n D of one another, and backlogs of equally fast ones that start empty differ by at most
  2 n D.
Work conservation. By 1 and 3 no request is sent to wait while another replica could begin it.
Fairness. Two tenants that wait all the time at each of R replicas get service within 2 R (U + Qu)
  of one another: Qu and U are the inner quantum and the U of each replica's dlpm, and R such
  bounds add up. A tenant that waits at some replicas only has been charged at the others no less
  than D below what it was charged at those; where it does not wait, it got all that.

A replica that comes back begins with a deficit of Q for everybody: it has an empty cache, and what
it was sent before has ended. Of tenants with nothing in flight the KEPT that asked last are
remembered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from evolute.engine.replicas.policies import (
    Candidate,
    Choice,
    least_loaded,
    longest_prefix,
)

KEPT = 1024


@dataclass(slots=True)
class Account:
    """One tenant: what it was granted at each replica, and charged at which."""

    granted: float
    charged: dict[int, float] = field(default_factory=dict)
    in_flight: int = 0


class D2lpm:
    """A `RoutingPolicy`; deficit = granted - charged."""

    def __init__(self, quantum: float) -> None:
        self.quantum = quantum
        self._accounts: dict[str, Account] = {}  # who asked last comes last
        self._replicas: set[int] = set()
        self._forget_at = 2 * KEPT

    def choose(self, tenant: str, num_prompt: int, candidates: Sequence[Candidate]) -> Choice:
        account = self._account(tenant)
        account.in_flight += 1
        if not any(self.deficit(tenant, replica) > 0 for replica in self._replicas):
            most = max(self.deficit(tenant, replica) for replica in self._replicas)
            account.granted += (math.floor(-most / self.quantum) + 1) * self.quantum
        owed = [c for c in candidates if self.deficit(tenant, c.replica) > 0]
        can_begin = [candidate for candidate in owed if candidate.is_open]
        others = [candidate for candidate in candidates if candidate.is_open]
        if not can_begin and (others or not owed):
            return Choice(least_loaded(others or candidates).replica, is_charged=False)
        return Choice(longest_prefix(can_begin or owed).replica, is_charged=True)

    def charge(self, tenant: str, replica: int, service: float) -> None:
        account = self._accounts.get(tenant)
        if account is not None and replica in account.charged:
            account.charged[replica] += service

    def ended(self, tenant: str) -> None:
        account = self._accounts.get(tenant)
        if account is not None:
            account.in_flight -= 1

    def add(self, replica: int) -> None:
        self._replicas.add(replica)
        for account in self._accounts.values():
            account.charged[replica] = account.granted - self.quantum

    def remove(self, replica: int) -> None:
        self._replicas.discard(replica)
        for account in self._accounts.values():
            account.charged.pop(replica, None)

    def deficit(self, tenant: str, replica: int) -> float:
        """What the tenant may be sent there before it is another replica's turn."""
        account = self._accounts[tenant]
        return account.granted - account.charged[replica]

    def __len__(self) -> int:
        """Tenants that are remembered."""
        return len(self._accounts)

    # -- internals -------------------------------------------------------------

    def _account(self, tenant: str) -> Account:
        account = self._accounts.pop(tenant, None)
        if account is None:
            account = Account(self.quantum, dict.fromkeys(self._replicas, 0.0))
            self._forget_idle()
        self._accounts[tenant] = account
        return account

    def _forget_idle(self) -> None:
        if len(self._accounts) < self._forget_at:
            return
        idle = [tenant for tenant, account in self._accounts.items() if not account.in_flight]
        for tenant in idle[:-KEPT]:
            del self._accounts[tenant]
        self._forget_at = 2 * max(KEPT, len(self._accounts))
