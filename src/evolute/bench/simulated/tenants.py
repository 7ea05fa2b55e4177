"""The fairness paper's workloads under each policy, and whether what is proven holds.

    run_published(names, scale) -> figures      raises BrokenBound where it does not
    run_pools(scale), run_limits(scale)         figure 15: the gap by memory; limits on requests
    POLICIES                                    name -> a policy with nobody waiting

For prompts up to L and a pool of M tokens, with U = max(w_p L, w_q M) (VTC, theorems 4.4 and 4.9;
`engine/scheduling/policies/deficit.py`):

    gap      of two tenants that always wait                 vtc 2U     dlpm 2(Q + w_p L + w_q M)
    lag      of one that always waits behind any other one   vtc 4U     dlpm the same
    idled    admissions that leave room and somebody waiting who was not asked                   0

A cost that is no sum over tokens has, for w_q M, the most that outputs of M tokens can cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

from evolute.bench.shapes import Dice, WorkItem, vtc
from evolute.bench.simulated.fairness import Served, serve
from evolute.bench.simulated.hardware import HARDWARE
from evolute.engine.scheduling import Policy, PolicySettings, make_policy
from evolute.engine.scheduling.policies import Fcfs, Vtc
from evolute.engine.scheduling.policies.service import (
    COSTS,
    PREDICTORS,
    Account,
    Cost,
    Ledger,
    Predictor,
)
from evolute.engine.scheduling.sequence import Sequence as Running
from evolute.types import BackendError

POOL_TOKENS = 10_000  # of the paper's A10G
QUANTUM = PolicySettings().quantum
POOLS = (2_000, 5_000, 10_000, 20_000, 35_000)  # tokens, for figure 15
PER_MINUTE = (5, 15, 20, 30)  # limits on requests
UNFAIR = ("fcfs", "lcf")  # no bound holds for them
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


def _vtc(predict: Predictor, weights: dict[str, float], cost: str = "tokens") -> Vtc:
    return Vtc(Ledger(COSTS[cost], predict, weights))


POLICIES: dict[str, Callable[[dict[str, float]], Policy]] = {
    "fcfs": lambda weights: Fcfs(),
    "lcf": lambda weights: Lcf(Ledger(COSTS["tokens"], PREDICTORS["none"], weights)),
    "vtc": lambda weights: _vtc(PREDICTORS["none"], weights),
    "vtc-mean": lambda weights: _vtc(PREDICTORS["mean"], weights),
    "vtc-half": lambda weights: _vtc(_half, weights),
    "vtc-oracle": lambda weights: _vtc(_oracle, weights),
    "vtc-profiled": lambda weights: _vtc(PREDICTORS["none"], weights, "profiled"),
    "vtc-profiled-oracle": lambda weights: _vtc(_oracle, weights, "profiled"),
    "dlpm": lambda weights: make_policy(PolicySettings("dlpm", weights=tuple(weights.items()))),
}


def cost_of(policy: str) -> Cost:
    """What its tenants are charged for, and what its figures count."""
    return COSTS["profiled" if "profiled" in policy else "tokens"]


def items_of(name: str, *, scale: float = 1.0, seed: int = 0) -> list[WorkItem]:
    """One of the paper's workloads; `scale` shrinks durations, not requests' sizes."""
    clients = vtc.CLIENTS.get(name)
    dice = Dice(random.Random(seed), 1000, 1.0, seed)
    items = vtc.arena(dice) if clients is None else vtc.by_clients(clients, dice)
    end = max(item.arrival_s for item in items) * scale
    return [item for item in items if item.arrival_s <= end]


def bound(
    policy: str,
    items: Sequence[WorkItem],
    weights: dict[str, float],
    pool_tokens: int = POOL_TOKENS,
) -> float:
    """Of the gap in service, divided by the weight, of two tenants that always wait."""
    cost, least = cost_of(policy), min(weights.values(), default=1.0)
    prompt = cost.of_prompt(max(len(item.prompt) for item in items))
    outputs = _dearest(cost, items) * pool_tokens
    if policy == "dlpm":
        return 2 * (QUANTUM + (prompt + outputs) / least)
    return 2 * max(prompt, outputs) / least


def run_published(
    names: Iterable[str] = (*vtc.CLIENTS, "arena"), *, scale: float = 1.0, seed: int = 0
) -> dict[str, float]:
    """`workload/policy/figure`, on the paper's A10G. Raises BrokenBound."""
    figures: dict[str, float] = {}
    for name in names:
        items = items_of(name, scale=scale, seed=seed)
        for policy in POLICIES:
            weights = {} if policy in UNFAIR else WEIGHTS.get(name, {})
            served = _serve(items, policy, weights, POOL_TOKENS)
            figures |= _checked(f"{name}/{policy}", served, policy, items, weights, POOL_TOKENS)
    return figures


def run_pools(scale: float = 1.0) -> dict[str, float]:
    """`POOL/policy/gap`: two tenants over capacity, by the tokens that memory holds. Raises
    BrokenBound."""
    figures: dict[str, float] = {}
    items = items_of("overload_256", scale=scale)
    for pool in POOLS:
        for policy in ("vtc", "vtc-mean", "dlpm"):
            served = _serve(items, policy, {}, pool)
            found = _checked(f"{pool}/{policy}", served, policy, items, {}, pool)
            figures |= {name: v for name, v in found.items() if "/gap" in name}
    return figures


def run_limits(scale: float = 1.0) -> dict[str, float]:
    """`rpmN/figure`: what a tenant sends beyond N requests a minute is refused, the rest is first
    come, first served. Fair by wasting capacity."""
    figures: dict[str, float] = {}
    items, machine = items_of("arena", scale=scale), HARDWARE["a10g-7b"]
    for limit in PER_MINUTE:
        served = serve(items, Fcfs(), machine, pool_tokens=POOL_TOKENS, per_minute=limit)
        figures[f"rpm{limit}/served"] = float(len(served.visits))
        figures[f"rpm{limit}/refused"] = float(served.refused)
        figures[f"rpm{limit}/tokens_per_s"] = served.tokens_per_s()
        figures[f"rpm{limit}/difference_mean"] = served.difference()[1]
    return figures


# -- internals ---------------------------------------------------------------


def _serve(items: Sequence[WorkItem], policy: str, weights: dict[str, float], pool: int) -> Served:
    made, machine = POLICIES[policy](weights), HARDWARE["a10g-7b"]
    return serve(items, made, machine, pool_tokens=pool, cost=cost_of(policy))


def _checked(
    name: str,
    served: Served,
    policy: str,
    items: Sequence[WorkItem],
    weights: dict[str, float],
    pool: int,
) -> dict[str, float]:
    """The figures. Raises BrokenBound."""
    limit = bound(policy, items, weights, pool)
    gap, lag = served.worst_gap(weights), served.worst_lag(weights)
    most_lag = limit if policy == "dlpm" else 2 * limit
    if served.idled:
        raise BrokenBound(f"{name}: room was left {served.idled} times while somebody waited.")
    if policy not in UNFAIR and gap > limit:
        raise BrokenBound(f"{name}: a gap of {gap:.0f}, above {limit:.0f}.")
    if policy not in UNFAIR and lag > most_lag:
        raise BrokenBound(f"{name}: a lag of {lag:.0f}, above {most_lag:.0f}.")
    figures = _figures(served, weights)
    figures |= {"gap": gap, "gap_of_bound": gap / limit, "lag_of_bound": lag / most_lag}
    return {f"{name}/{key}": value for key, value in figures.items()}


def _figures(served: Served, weights: dict[str, float]) -> dict[str, float]:
    most, mean, variance = served.difference()
    firsts = [served.first_token_s(tenant) for tenant in served.tenants]
    figures = {
        "difference_max": most,
        "difference_mean": mean,
        "difference_variance": variance,
        "tokens_per_s": served.tokens_per_s(),
        "least_first_token_s": min(firsts),
        "most_first_token_s": max(firsts),
    }
    if not math.isnan(jain := served.jain()):
        figures["jain_60s"] = jain
    if weights:  # while all wait: 1 is exactly the share that the weight gives
        end = max(visit.item.arrival_s for visit in served.visits)
        total = sum(weights.values())
        for tenant, weight in weights.items():
            figures[f"share_of_weight/{tenant}"] = served.share(tenant, 0, end) * total / weight
    return figures


def _dearest(cost: Cost, items: Sequence[WorkItem]) -> float:
    """The most that outputs can cost, for each token of memory."""
    if not cost.product and not cost.square:
        return cost.output
    sizes = {(len(item.prompt), item.max_new_tokens) for item in items}
    return max(cost.of_output(p, 0, q) / (p + q) for p, q in sizes)
