"""Who is next? One class for each policy; `make_policy` chooses by name."""

from evolute.engine.scheduling.policies.arrival import Fcfs, Lpm
from evolute.engine.scheduling.policies.build import (
    POLICY_NAMES,
    PolicySettings,
    change_policy,
    make_policy,
)
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.deficit import Dlpm
from evolute.engine.scheduling.policies.policy import Policy, Share
from evolute.engine.scheduling.policies.priority import Priority
from evolute.engine.scheduling.policies.service import Cost, Predictor

__all__ = [
    "POLICY_NAMES",
    "Cost",
    "Dlpm",
    "Fcfs",
    "Lpm",
    "Policy",
    "PolicySettings",
    "Predictor",
    "Priority",
    "Share",
    "Vtc",
    "change_policy",
    "make_policy",
]
