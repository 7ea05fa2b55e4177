"""How token losses become one number, baked into per-sequence weights before any split.

    token_weights(reduction, lengths, groups, max_length)

token_mean                1 / tokens of the batch                             (DAPO, 2503.14476)
sequence_mean             1 / (sequences x own tokens)                        (GRPO)
prompt_mean               1 / (prompts x tokens of the prompt's group)
seq_mean_token_sum_norm   1 / (sequences x max_length), a constant            (Dr. GRPO)
seq_mean_token_sum        1 / sequences                                       (LUSPO)
token_sum                 1                                                   (the Tinker API)

The loss is then a plain sum over trained tokens, so neither the micro-batch split nor the number
of workers can change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from evolute.train.algorithms.registry import Registry

Weights = Callable[[Sequence[int], Sequence[Hashable], int], list[float]]


def token_mean(lengths: Sequence[int], groups: Sequence[Hashable], longest: int) -> list[float]:
    return [1 / max(sum(lengths), 1)] * len(lengths)


def sequence_mean(lengths: Sequence[int], groups: Sequence[Hashable], longest: int) -> list[float]:
    return [1 / (len(lengths) * max(length, 1)) for length in lengths]


def prompt_mean(lengths: Sequence[int], groups: Sequence[Hashable], longest: int) -> list[float]:
    tokens: Counter[Hashable] = Counter()
    for group, length in zip(groups, lengths):
        tokens[group] += length
    return [1 / (len(tokens) * max(tokens[group], 1)) for group in groups]


def seq_mean_token_sum_norm(
    lengths: Sequence[int], groups: Sequence[Hashable], longest: int
) -> list[float]:
    return [1 / (max(len(lengths), 1) * longest)] * len(lengths)


def seq_mean_token_sum(
    lengths: Sequence[int], groups: Sequence[Hashable], longest: int
) -> list[float]:
    return [1 / max(len(lengths), 1)] * len(lengths)


def token_sum(lengths: Sequence[int], groups: Sequence[Hashable], longest: int) -> list[float]:
    return [1.0] * len(lengths)


REDUCTIONS: Registry[Weights] = Registry("loss reduction")
for _weights in (token_mean, sequence_mean, seq_mean_token_sum_norm, prompt_mean):
    REDUCTIONS.add(_weights.__name__, _weights)
for _weights in (seq_mean_token_sum, token_sum):
    REDUCTIONS.add(_weights.__name__, _weights)


def token_weights(
    reduction: str, lengths: Sequence[int], groups: Sequence[Hashable], max_length: int
) -> list[float]:
    """Weight of each token of sequence i. `lengths` count trained tokens (0 allowed)."""
    return REDUCTIONS[reduction](lengths, groups, max_length)
