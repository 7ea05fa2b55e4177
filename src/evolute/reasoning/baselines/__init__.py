"""What other methods are measured against: one call, thinking, votes, a tree, a program."""

from evolute.reasoning.baselines.pal import Pal, PalConfig, make_pal
from evolute.reasoning.baselines.plain import (
    ChainOfThought,
    Direct,
    PlainConfig,
    make_cot,
    make_direct,
)
from evolute.reasoning.baselines.tree import TreeConfig, TreeOfThoughts, make_tree_of_thoughts
from evolute.reasoning.baselines.votes import Majority, VotesConfig, make_majority

__all__ = [
    "ChainOfThought",
    "Direct",
    "Majority",
    "Pal",
    "PalConfig",
    "PlainConfig",
    "TreeConfig",
    "TreeOfThoughts",
    "VotesConfig",
    "make_cot",
    "make_direct",
    "make_majority",
    "make_pal",
    "make_tree_of_thoughts",
]
