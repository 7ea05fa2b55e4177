"""The fairness paper's workloads under each policy, and whether what is proven holds.

    run_published(names, scale) -> figures      raises BrokenBound where it does not
    run_pools(scale), run_limits(scale)         figure 15: the gap by memory; limits on requests
    POLICIES                                    name -> a policy with nobody waiting

What is proven is in `bounds.py`, and asserted in each run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

from evolute.bench.shapes import Dice, WorkItem, vtc
from evolute.bench.simulated.bounds import BrokenBound as BrokenBound
from evolute.bench.simulated.bounds import bounds
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

POOL_TOKENS, MACHINE = 10_000, HARDWARE["a10g-7b"]  # the paper's A10G
POOLS = (2_000, 5_000, 10_000, 20_000, 35_000)  # tokens, for figure 15
PER_MINUTE = (5, 15, 20, 30)  # limits on requests
UNFAIR = ("fcfs", "lcf")  # no bound holds for them
WEIGHTS = {"weighted": {f"client-{i}": float(i + 1) for i in range(4)}}


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
    items = items_of("arena", scale=scale)
    for limit in PER_MINUTE:
        served = serve(items, Fcfs(), MACHINE, pool_tokens=POOL_TOKENS, per_minute=limit)
        figures[f"rpm{limit}/served"] = float(len(served.visits))
        figures[f"rpm{limit}/refused"] = float(served.refused)
        figures[f"rpm{limit}/tokens_per_s"] = served.tokens_per_s()
        figures[f"rpm{limit}/difference_mean"] = served.difference()[1]
    return figures


# -- internals ---------------------------------------------------------------


def _serve(items: Sequence[WorkItem], policy: str, weights: dict[str, float], pool: int) -> Served:
    made = POLICIES[policy](weights)
    return serve(items, made, MACHINE, pool_tokens=pool, cost=cost_of(policy))


def _checked(
    name: str,
    served: Served,
    policy: str,
    items: Sequence[WorkItem],
    weights: dict[str, float],
    pool: int,
) -> dict[str, float]:
    """The figures. Raises BrokenBound."""
    limits = bounds(name, policy, cost_of(policy), items, weights, pool, MACHINE)
    figures = limits.check(served, is_fair=policy not in UNFAIR) | _figures(served, weights)
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
