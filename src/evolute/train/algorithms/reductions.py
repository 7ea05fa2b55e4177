"""How token losses become one number, baked into per-sequence weights before any split.

The loss is then a plain masked sum, so neither the micro-batch split nor the number of workers
can change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from evolute.types import ConfigError
from evolute.types.settings import nearest

REDUCTIONS = ("token_mean", "sequence_mean", "seq_mean_token_sum_norm", "prompt_mean")


def token_weights(
    reduction: str, lengths: Sequence[int], groups: Sequence[Hashable], max_length: int
) -> list[float]:
    """Weight of each token of sequence i. `lengths` count trained tokens (0 allowed)."""
    n = len(lengths)
    if reduction == "token_mean":
        return [1 / max(sum(lengths), 1)] * n
    if reduction == "sequence_mean":
        return [1 / (n * max(length, 1)) for length in lengths]
    if reduction == "seq_mean_token_sum_norm":
        return [1 / (n * max_length)] * n
    if reduction == "prompt_mean":
        tokens: Counter[Hashable] = Counter()
        for group, length in zip(groups, lengths):
            tokens[group] += length
        return [1 / (len(tokens) * max(tokens[group], 1)) for group in groups]
    raise ConfigError(f"no loss reduction {reduction!r}. {nearest(reduction, REDUCTIONS)}")
