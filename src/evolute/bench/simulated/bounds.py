"""What is proven of service under the fair policies, in numbers, and does a run keep it?

    bounds(policy, items, weights, pool_tokens, hardware) -> Bounds
    bounds.check(served) -> figures            raises BrokenBound: which one, and by how much

For prompts up to L, a pool of M tokens and weights w (1 where none is given), all service divided
by the weight, n tenants: U = max(w_p L, w_q M) / min w; of dlpm V = Q + (w_p L + w_q M) / min w.

    spread     counters of tenants that wait (lemma 4.3)                        U      dlpm V
    gap        of two tenants that always wait (theorem 4.4)                   2U            2V
    lag        of one that always waits, behind any other (4.9)                4U            2V
    dispatch   service given to all while the next request of a tenant with
               nothing in flight waits (4.11)                        2 (n - 1) U    2 (n - 1) V
    dispatch_s the same in seconds: divided by the least service in a second that the machine
               gives while anybody waits
    neglect    1 / n of what all got while a tenant always waited, less what it asked for since
               it began to (4.13)                                              5U   2V + w_q M
    idled      admissions that leave room and somebody waiting who was not asked              0

4.11 assumes that the wait counts from when the scheduler is told of the request, that the tenant
has nothing waiting and nothing running then, and a server that gives at least `a` in a second
while anybody waits; here `a` is one row's tokens in the longest step, so the bound in seconds is
loose and the one in service is not. With weights 2 (n - 1) U is 2 U times the others' weights.

4.13 is told of service up to a moment; nothing can be served in the moment in which it is asked
for, so what is asserted is its proof: who always waited since s got at least 1 / n of what all got
less 4U (4.9), and at most what it asked for since s and U more, of what ran at s. So who asks for
less than T / n - 5U has nothing waiting at some moment since s: it gets all that it asks for.

For dlpm (`engine/scheduling/policies/deficit.py`): a deficit is in (-(V - Q), Q], so the spread is
V at most; lag and gap are the same; 4.11 follows from the lag of a tenant that is given nothing,
4.13 as above with w_q M for what ran. 4.8 is the other way around: no policy that preempts nobody
keeps every gap below w_q M (`tests/unit/bench/test_bounds.py` has a case).
A cost that is no sum over tokens has, for w_q M, the most that outputs of M tokens can cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolute.bench.shapes import WorkItem
from evolute.bench.simulated.fairness import Served
from evolute.bench.simulated.hardware import Hardware
from evolute.engine.scheduling import PolicySettings
from evolute.engine.scheduling.policies import Cost
from evolute.types import BackendError

QUANTUM = PolicySettings().quantum


class BrokenBound(BackendError):
    """A tenant got more ahead of another than is proven to be possible."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one run; service is divided by the weight, but for `dispatch`."""

    name: str
    weights: Mapping[str, float]
    spread: float
    gap: float
    lag: float
    neglect: float
    of_others: float  # `dispatch` for each unit of the others' weights
    least_per_s: float  # service of the machine while anybody waits

    def check(self, served: Served, *, is_fair: bool = True) -> dict[str, float]:
        """`gap`, and each measure as a part of its bound. Raises BrokenBound; for a policy that
        is not fair only when room was left."""
        if served.idled:
            raise BrokenBound(
                f"{self.name}: room was left {served.idled} times while somebody waited."
            )
        weights, gap = self.weights, served.worst_gap(self.weights)
        dispatch, dispatch_s = self._dispatch(served)
        parts = {
            "spread": served.spread / self.spread,
            "gap": gap / self.gap,
            "lag": served.worst_lag(weights) / self.lag,
            "dispatch": dispatch,
            "dispatch_s": dispatch_s,
            "neglect": served.worst_neglect(weights) / self.neglect,
        }
        broken = [
            f"a {name} of {part:.2f} of its bound" for name, part in parts.items() if part > 1
        ]
        if broken and is_fair:
            raise BrokenBound(f"{self.name}: {', '.join(broken)}.")
        return {"gap": gap} | {f"{name}_of_bound": part for name, part in parts.items()}

    def _dispatch(self, served: Served) -> tuple[float, float]:
        """The worst waits, by service and by seconds, as parts of their bounds."""
        weigh = {tenant: self.weights.get(tenant, 1.0) for tenant in served.tenants}
        total, service, seconds = sum(weigh.values()), 0.0, 0.0
        for wait in served.waits:
            most = self.of_others * (total - weigh[wait.tenant])
            if most:  # else nobody else is there
                service = max(service, wait.service / most)
                seconds = max(seconds, wait.seconds * self.least_per_s / most)
        return service, seconds


def bounds(
    name: str,
    policy: str,
    cost: Cost,
    items: Sequence[WorkItem],
    weights: Mapping[str, float],
    pool_tokens: int,
    hardware: Hardware,
) -> Bounds:
    """For a fair policy of `tenants.POLICIES`; for the others what vtc would keep."""
    least = min(weights.values(), default=1.0)
    prompt = cost.of_prompt(max(len(item.prompt) for item in items)) / least
    outputs = _dearest(cost, items) * pool_tokens / least
    per_s = _least_per_s(cost, hardware, pool_tokens)
    if policy == "dlpm":
        v = QUANTUM + prompt + outputs
        return Bounds(name, weights, v, 2 * v, 2 * v, 2 * v + outputs, 2 * v, per_s)
    u = max(prompt, outputs)
    return Bounds(name, weights, u, 2 * u, 4 * u, 5 * u, 2 * u, per_s)


# -- internals ---------------------------------------------------------------


def _dearest(cost: Cost, items: Sequence[WorkItem]) -> float:
    """The most that outputs can cost, for each token of memory."""
    if not cost.product and not cost.square:
        return cost.output
    sizes = {(len(item.prompt), item.max_new_tokens) for item in items}
    return max(cost.of_output(p, 0, q) / (p + q) for p, q in sizes)


def _least_per_s(cost: Cost, hardware: Hardware, pool_tokens: int) -> float:
    """One row makes a token in each step, or one token of a prompt is computed and one made."""
    decode = cost.of_output(0, 0, 1) / hardware.decode_s(1, pool_tokens, (), 0.0)
    prefill = (cost.of_prompt(1) + cost.of_output(0, 0, 1)) / hardware.prefill_s(1, ())
    return min(decode, prefill)
