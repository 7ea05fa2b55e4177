"""Deciding what to compute next, without computing anything."""

from evolute.engine.scheduling.placement import Placement
from evolute.engine.scheduling.queue import QUEUES, FcfsQueue, LpmQueue, Queue
from evolute.engine.scheduling.sequence import Namespace, Sequence
from evolute.engine.scheduling.simulate import (
    Arrival,
    Replay,
    SimulationSettings,
    read_trace,
    simulate,
)
from evolute.engine.scheduling.step import Candidate, Chunk, Limits, Step, next_step

__all__ = [
    "QUEUES",
    "Arrival",
    "Candidate",
    "Chunk",
    "FcfsQueue",
    "Limits",
    "LpmQueue",
    "Namespace",
    "Placement",
    "Queue",
    "Replay",
    "Sequence",
    "SimulationSettings",
    "Step",
    "next_step",
    "read_trace",
    "simulate",
]
