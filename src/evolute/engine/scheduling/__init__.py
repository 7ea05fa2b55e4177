"""Deciding what to compute next, without computing anything."""

from evolute.engine.scheduling.placement import Placement
from evolute.engine.scheduling.policies import (
    Policy,
    PolicySettings,
    Share,
    change_policy,
    make_policy,
)
from evolute.engine.scheduling.sequence import Namespace, Sequence
from evolute.engine.scheduling.simulate import (
    Arrival,
    Replay,
    SimulatedEngine,
    SimulationSettings,
    read_trace,
    simulate,
)
from evolute.engine.scheduling.speculation import SpeculationSettings, Speculator, propose_forced
from evolute.engine.scheduling.step import (
    Blocked,
    Candidate,
    Chunk,
    Limits,
    Step,
    displaced,
    next_step,
)

__all__ = [
    "Arrival",
    "Blocked",
    "Candidate",
    "Chunk",
    "Limits",
    "Namespace",
    "Placement",
    "Policy",
    "PolicySettings",
    "Replay",
    "Sequence",
    "Share",
    "SimulatedEngine",
    "SimulationSettings",
    "SpeculationSettings",
    "Speculator",
    "Step",
    "change_policy",
    "displaced",
    "make_policy",
    "next_step",
    "propose_forced",
    "read_trace",
    "simulate",
]
