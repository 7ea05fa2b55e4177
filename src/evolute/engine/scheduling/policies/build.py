"""A policy from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from evolute.engine.scheduling.policies.arrival import Fcfs, Lpm
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.deficit import Dlpm
from evolute.engine.scheduling.policies.policy import Policy
from evolute.engine.scheduling.policies.priority import Priority
from evolute.engine.scheduling.policies.service import COSTS, PREDICTORS, CostName, Ledger

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
