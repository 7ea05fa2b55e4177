"""The dispatcher on machines that one does not have: the same class, a clock that jumps."""

from evolute.agents.simulation.compare import Comparison, Row, compare, table
from evolute.agents.simulation.machines import SharedMachine
from evolute.agents.simulation.replay import (
    Recorded,
    ReplayConfig,
    Replayed,
    compared,
    read_recorded,
    recorded,
    replay,
)
from evolute.agents.simulation.settings import SimulationConfig
from evolute.agents.simulation.work import SimulatedLifecycle, Work, draw_work

__all__ = [
    "Comparison",
    "Recorded",
    "ReplayConfig",
    "Replayed",
    "Row",
    "SharedMachine",
    "SimulatedLifecycle",
    "SimulationConfig",
    "Work",
    "compare",
    "compared",
    "draw_work",
    "read_recorded",
    "recorded",
    "replay",
    "table",
]
