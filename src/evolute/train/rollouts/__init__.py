"""From problems to packed training samples."""

from evolute.train.rollouts.journal import Journal
from evolute.train.rollouts.packing import Credited, MicroBatch, PackedGroup, pack
from evolute.train.rollouts.source import ProblemSource

__all__ = ["Credited", "Journal", "MicroBatch", "PackedGroup", "ProblemSource", "pack"]
