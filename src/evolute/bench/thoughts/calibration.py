"""From which cosine on is a template the right one?

    await calibrate(embedder, texts) -> Calibration      top-1, and the curve of both errors

Each known family stores two templates (the distilled forms of two of its texts); all others are
queries. A query of a strange family that passes the threshold is falsely accepted, one of a known
family that does not pass is falsely rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolute.bench.thoughts.paraphrases import KNOWN
from evolute.reasoning.thought_buffer import Embedder
from evolute.reasoning.thought_buffer.distill import extract

STORED = (0, 2)  # which texts of a family become its templates
STEPS = [round(0.02 * k, 2) for k in range(10, 48)]


@dataclass(frozen=True, slots=True)
class Calibration:
    """`curve` has (threshold, false acceptance, false rejection); `queries` are of known families.

    `use_above` is the least threshold with at most 2 % false acceptance.
    """

    top1: float
    queries: int
    strangers: int
    curve: tuple[tuple[float, float, float], ...]

    @property
    def use_above(self) -> float:
        passing = [t for t, accepted, _ in self.curve if accepted <= 0.02]
        return min(passing, default=1.0)

    def at(self, threshold: float) -> tuple[float, float]:
        """False acceptance and rejection at the nearest step."""
        nearest = min(self.curve, key=lambda row: abs(row[0] - threshold))
        return nearest[1], nearest[2]


async def calibrate(embedder: Embedder, texts: Mapping[str, Sequence[str]]) -> Calibration:
    """`texts` by family; families outside KNOWN are strange."""
    stored = [(f, texts[f][k]) for f in texts if f in KNOWN for k in STORED]
    asked = [(f, t) for f, some in texts.items() for k, t in enumerate(some) if _is_query(f, k)]
    rows = await embedder.embed([extract(text).query for _, text in [*stored, *asked]])
    cosines = rows[len(stored) :] @ rows[: len(stored)].T
    best, index = cosines.max(1), cosines.argmax(1)
    right = np.array([stored[k][0] == family for (family, _), k in zip(asked, index)])
    known = np.array([family in KNOWN for family, _ in asked])
    curve = tuple(
        (step, float((best[~known] >= step).mean()), float((best[known] < step).mean()))
        for step in STEPS
    )
    return Calibration(float(right[known].mean()), int(known.sum()), int((~known).sum()), curve)


# -- internals ---------------------------------------------------------------


def _is_query(family: str, k: int) -> bool:
    return family not in KNOWN or k not in STORED
