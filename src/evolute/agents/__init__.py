"""Agents that act through tools, and many of them at once."""

from evolute.agents.dispatcher import DispatchConfig, Dispatcher
from evolute.agents.player import AgentPlayer
from evolute.agents.react import Agent
from evolute.agents.record import Record
from evolute.agents.settings import AgentConfig
from evolute.agents.setup import AgentEnd, Setup, Stop
from evolute.agents.trajectory import AgentTrajectory
from evolute.agents.transitions import Transition, samples_of

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentEnd",
    "AgentPlayer",
    "AgentTrajectory",
    "DispatchConfig",
    "Dispatcher",
    "Record",
    "Setup",
    "Stop",
    "Transition",
    "samples_of",
]
