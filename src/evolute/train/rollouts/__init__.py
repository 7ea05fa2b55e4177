"""From problems to packed training samples."""

from evolute.train.rollouts.dynamic import Gathered, gathered
from evolute.train.rollouts.journal import Journal
from evolute.train.rollouts.packing import Credited, MicroBatch, PackedGroup, pack
from evolute.train.rollouts.source import ProblemSource

__all__ = [
    "Credited",
    "Gathered",
    "Journal",
    "MicroBatch",
    "PackedGroup",
    "ProblemSource",
    "gathered",
    "pack",
]
