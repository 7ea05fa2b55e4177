"""The fairness paper's workloads under each policy, and whether the bounds hold.

    run_published(names, scale) -> figures      raises BrokenBound where one does not
    POLICIES                                    name -> a policy with nobody waiting

Bounds (VTC, theorem 4.4; `engine/scheduling/policies/deficit.py`), for prompts up to L and a pool
of M tokens: vtc 2U with U = max(w_p L, w_q M); dlpm 2(Q + w_p L + w_q M).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from evolute.bench.shapes import Dice, WorkItem, vtc
from evolute.bench.simulated.fairness import OUTPUT, PROMPT, Served, serve
from evolute.bench.simulated.hardware import HARDWARE
from evolute.engine.scheduling import Policy, PolicySettings, make_policy
from evolute.engine.scheduling.policies import Fcfs, Vtc
from evolute.engine.scheduling.policies.service import COSTS, PREDICTORS, Account, Ledger, Predictor
from evolute.engine.scheduling.sequence import Sequence as Running
from evolute.types import BackendError

POOL_TOKENS = 10_000  # of the paper's A10G
QUANTUM = PolicySettings().quantum
WEIGHTS = {"weighted": {f"client-{i}": float(i + 1) for i in range(4)}}


class BrokenBound(BackendError):
    """A tenant got more ahead of another than is proven to be possible."""


class Lcf(Vtc):
    """Least counter first: nobody who returns is lifted, so credit is saved up."""

    def _lift(self, account: Account) -> None:
        pass


def _oracle(account: Account, sequence: Running) -> int:
    return sequence.max_new_tokens


def _half(account: Account, sequence: Running) -> int:
    """The true length, up to a half off."""
    return int(sequence.max_new_tokens * (0.5 + random.Random(sequence.id).random()))


def _vtc(predict: Predictor, weights: dict[str, float]) -> Vtc:
    return Vtc(Ledger(COSTS["tokens"], predict, weights))


POLICIES: dict[str, Callable[[dict[str, float]], Policy]] = {
    "fcfs": lambda weights: Fcfs(),
    "lcf": lambda weights: Lcf(Ledger(COSTS["tokens"], PREDICTORS["none"], weights)),
    "vtc": lambda weights: _vtc(PREDICTORS["none"], weights),
    "vtc-mean": lambda weights: _vtc(PREDICTORS["mean"], weights),
    "vtc-half": lambda weights: _vtc(_half, weights),
    "vtc-oracle": lambda weights: _vtc(_oracle, weights),
    "dlpm": lambda weights: make_policy(PolicySettings("dlpm", weights=tuple(weights.items()))),
}


def items_of(name: str, *, scale: float = 1.0, seed: int = 0) -> list[WorkItem]:
    """One of the paper's workloads; `scale` shrinks durations, not requests' sizes."""
    clients = vtc.CLIENTS.get(name)
    dice = Dice(random.Random(seed), 1000, 1.0, seed)
    items = vtc.arena(dice) if clients is None else vtc.by_clients(clients, dice)
    end = max(item.arrival_s for item in items) * scale
    return [item for item in items if item.arrival_s <= end]


def bound(policy: str, items: Sequence[WorkItem], weights: dict[str, float]) -> float:
    """Of the gap in service, divided by the weight, of two tenants that always wait."""
    longest, least = max(len(item.prompt) for item in items), min(weights.values(), default=1.0)
    if policy == "dlpm":
        return 2 * (QUANTUM + (PROMPT * longest + OUTPUT * POOL_TOKENS) / least)
    return 2 * max(PROMPT * longest, OUTPUT * POOL_TOKENS) / least


def run_published(
    names: Iterable[str] = (*vtc.CLIENTS, "arena"), *, scale: float = 1.0, seed: int = 0
) -> dict[str, float]:
    """`workload/policy/figure`, on the paper's A10G. Raises BrokenBound."""
    figures: dict[str, float] = {}
    for name in names:
        items, weights = items_of(name, scale=scale, seed=seed), WEIGHTS.get(name, {})
        for policy, make in POLICIES.items():
            made = weights if policy not in ("fcfs", "lcf") else {}
            served = serve(items, make(made), HARDWARE["a10g-7b"], pool_tokens=POOL_TOKENS)
            limit = bound(policy, items, made)
            gap = served.worst_gap(made)
            if policy not in ("fcfs", "lcf") and gap > limit:
                raise BrokenBound(f"{name} under {policy}: a gap of {gap:.0f}, above {limit:.0f}.")
            figures |= _figures(f"{name}/{policy}", served, gap, limit)
    return figures


# -- internals ---------------------------------------------------------------


def _figures(name: str, served: Served, gap: float, limit: float) -> dict[str, float]:
    most, mean, variance = served.difference()
    firsts = [served.first_token_s(tenant) for tenant in served.tenants]
    return {
        f"{name}/gap": gap,
        f"{name}/gap_of_bound": gap / limit,
        f"{name}/difference_max": most,
        f"{name}/difference_mean": mean,
        f"{name}/difference_variance": variance,
        f"{name}/tokens_per_s": served.tokens_per_s(),
        f"{name}/least_first_token_s": min(firsts),
    }
