"""Did the new weights arrive? Two independent checks, whatever the way.

    check_digest(version, name, held, expected)          what the receiver holds, as it says itself
    check_canary(version, name, ours, theirs, precision) both sides compute the same of a prompt

A publication that "succeeds" and never arrives looks like staleness and costs months (verl #7495,
SkyRL #1222); so a run stops at the first that is not proved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evolute.types import TrainingError

MAX_CANARY_DIFFERENCE = {"float32": 1e-3, "quantized": 1.0, "int8": 1.0}


@dataclass(frozen=True, slots=True)
class PublishProof:
    """What was compared: digests equal, and the canary's largest difference."""

    version: int
    fingerprint: str
    canary_abs_diff: float  # the largest of all engines
    num_engines: int = 1  # each proved by itself


def check_digest(version: int, name: str | None, held: str, expected: str) -> None:
    """Raises TrainingError when the receiver holds something else."""
    if held != expected:
        raise TrainingError(
            f"publication {version} of {name!r}: the engine holds {held[:12]}, the "
            f"trainer {expected[:12]}. The weights did not arrive; nothing further was done."
        )


def check_canary(
    version: int, name: str | None, ours: Tensor, theirs: Tensor, precision: str
) -> float:
    """The largest difference of log-probabilities. Raises TrainingError above the limit."""
    if ours.shape != theirs.shape or not torch.isfinite(theirs).all():
        raise TrainingError(
            f"publication {version} of {name!r}: the engine told {len(theirs)} log-probabilities "
            f"of the canary's {len(ours)}, or some that are no numbers."
        )
    difference = float((ours - theirs).abs().max())
    limit = MAX_CANARY_DIFFERENCE[precision]
    if not difference <= limit:
        raise TrainingError(
            f"publication {version} of {name!r}: the canary's log-probabilities differ by "
            f"{difference:.2g} (limit {limit}); trainer and engine compute different models."
        )
    return difference
