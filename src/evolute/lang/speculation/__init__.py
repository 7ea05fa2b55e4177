"""API speculative execution: one call's text answers several gens (SGLang, arXiv 2312.07104, 5)."""

from evolute.lang.speculation.counts import SurplusCounts
from evolute.lang.speculation.surplus import Surplus
from evolute.lang.speculation.turns import Hole, Turn, fill, match

__all__ = ["Hole", "Surplus", "SurplusCounts", "Turn", "fill", "match"]
