"""A policy from its settings, and from one that was in force.

make_policy(settings) -> Policy
change_policy(old, before, now, waiting, running) -> Policy
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from evolute.engine.scheduling.policies.arrival import Fcfs, Lpm
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.deficit import Dlpm
from evolute.engine.scheduling.policies.policy import Policy
from evolute.engine.scheduling.policies.priority import Priority
from evolute.engine.scheduling.policies.service import COSTS, PREDICTORS, CostName, Ledger
from evolute.engine.scheduling.sequence import Sequence

PolicyName = Literal["fcfs", "lpm", "vtc", "dlpm", "priority"]
POLICY_NAMES: tuple[str, ...] = get_args(PolicyName)
PredictorName = Literal["none", "mean"]


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Which policy, and how the fair ones charge."""

    policy: PolicyName = "dlpm"
    cost: CostName = "tokens"
    predict: PredictorName = "mean"
    quantum: int = 1024  # of dlpm, in units of the cost
    weights: tuple[tuple[str, float], ...] = ()  # tenant, share; 1 unless given


def make_policy(settings: PolicySettings) -> Policy:
    """A policy with nobody waiting."""
    if settings.policy == "fcfs":
        return Fcfs()
    if settings.policy == "lpm":
        return Lpm()
    if settings.policy == "priority":
        return Priority()
    weights = dict(settings.weights)
    ledger = Ledger(COSTS[settings.cost], PREDICTORS[settings.predict], weights)
    return Vtc(ledger) if settings.policy == "vtc" else Dlpm(ledger, settings.quantum)


def change_policy(
    old: Policy,
    before: PolicySettings,
    now: PolicySettings,
    waiting: Iterable[Sequence],
    running: Iterable[Sequence],
) -> Policy:
    """The policy for new settings. Quantum and weights change in place; else those that wait are
    pushed in this order, and the accounts begin anew for all."""
    is_same = before == replace(now, quantum=before.quantum, weights=before.weights)
    if is_same and isinstance(old, Vtc):
        old.set_weights(dict(now.weights))
        if isinstance(old, Dlpm):
            old.set_quantum(now.quantum)
        return old
    policy = make_policy(now)
    for sequence in waiting:
        policy.push(sequence)
        if sequence.num_preemptions:
            policy.adopt(sequence)
    for sequence in running:
        policy.adopt(sequence)
    return policy
