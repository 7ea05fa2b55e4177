"""Tokens in, tokens out: scheduling, memory, adapters and execution on one model."""

from evolute.engine.adapters import AdapterInfo
from evolute.engine.config import EngineConfig, resolve
from evolute.engine.counts import Counts
from evolute.engine.engine import Engine, EngineStats, Heartbeat
from evolute.engine.snapshot import MemoryMap, Snapshot

__all__ = [
    "AdapterInfo",
    "Counts",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Heartbeat",
    "MemoryMap",
    "Snapshot",
    "resolve",
]
