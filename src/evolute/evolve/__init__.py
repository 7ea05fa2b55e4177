"""The system loop: whoever proposes, one judge decides, and a ledger remembers."""

from evolute.evolve.ledger import Ledger, Trial
from evolute.evolve.loop import TuneReport, tune
from evolute.evolve.proposers import (
    ModelProposer,
    OptunaProposer,
    Proposer,
    RandomProposer,
    ScriptedProposer,
)

__all__ = [
    "Ledger",
    "ModelProposer",
    "OptunaProposer",
    "Proposer",
    "RandomProposer",
    "ScriptedProposer",
    "Trial",
    "TuneReport",
    "tune",
]
