"""From logits to tokens, one row at a time in the plain version.

    choose(logits, rows) -> Chosen        next token of each row and its log-probability

The log-probability is the model's at the row's temperature, before penalties, masks and
truncation. A row's draw depends on its seed and position only, never on the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.types import SamplingParams, TopLogprob

Float32 = NDArray[np.float32]
MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """What one row's choice depends on."""

    sampling: SamplingParams
    seed: int
    position: int  # tokens before this one
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    stop_token_ids: frozenset[int] = frozenset()
    mask: NDArray[np.uint32] | None = None  # grammar: one bit a token, 1 = allowed


@dataclass(frozen=True, slots=True)
class Chosen:
    token_id: int
    logprob: float
    top: tuple[TopLogprob, ...] = ()


class NotANumber(ValueError):
    """The logits of a row are NaN; only this request is lost."""


def choose(logits: Float32, row: Row) -> Chosen:
    """Choose the next token from `logits` [V]. Raises NotANumber."""
    sampling = row.sampling
    temperature = 1.0 if sampling.is_greedy else sampling.temperature
    scaled = logits.astype(np.float64) / temperature
    normalizer = _log_sum_exp(scaled)
    if not np.isfinite(normalizer):
        raise NotANumber("the model's logits are not finite")
    adjusted = _adjust(logits, row)
    token = int(adjusted.argmax()) if sampling.is_greedy else _draw(adjusted, row)
    return Chosen(token, float(scaled[token] - normalizer), _top(scaled, normalizer, sampling))


def logprob_of(logits: Float32, token_id: int, temperature: float = 1.0) -> float:
    """Log-probability of one token under `logits` [V]."""
    scaled = logits.astype(np.float64) / temperature
    return float(scaled[token_id] - _log_sum_exp(scaled))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from a counter (splitmix64): the same for any batch."""
    state = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
    return ((state ^ (state >> 31)) >> 11) / (1 << 53)


def needs_adjusting(row: Row) -> bool:
    """True when anything but temperature and truncation changes the row's logits."""
    s = row.sampling
    penal = s.repetition_penalty != 1.0 or s.frequency_penalty or s.presence_penalty
    early = row.stop_token_ids and len(row.output) < s.min_new_tokens
    return bool(penal or s.logit_bias or early or row.mask is not None)


# -- internals ---------------------------------------------------------------


def _log_sum_exp(scaled: NDArray[np.float64]) -> float:
    high = scaled.max()
    return float(high + np.log(np.exp(scaled - high).sum()))


def _adjust(logits: Float32, row: Row) -> Float32:
    if not needs_adjusting(row):
        return logits
    s, out = row.sampling, logits.copy()
    if s.repetition_penalty != 1.0:
        seen = np.fromiter({*row.prompt, *row.output}, np.int64)
        values = out[seen]
        out[seen] = np.where(
            values > 0, values / s.repetition_penalty, values * s.repetition_penalty
        )
    counts = Counter(row.output)
    if counts and (s.frequency_penalty or s.presence_penalty):
        ids = np.fromiter(counts, np.int64)
        times = np.fromiter(counts.values(), np.float32)
        out[ids] -= s.frequency_penalty * times + s.presence_penalty
    for token, bias in s.logit_bias.items():
        out[int(token)] += bias
    if row.mask is not None:
        bits = np.unpackbits(row.mask.view(np.uint8), bitorder="little")[: len(out)]
        out[bits == 0] = -np.inf
    if len(row.output) < s.min_new_tokens and row.stop_token_ids:
        out[list(row.stop_token_ids)] = -np.inf
    return out


def _draw(logits: Float32, row: Row) -> int:
    """Inverse distribution function over what top-k, top-p and min-p leave, in vocabulary order."""
    s = row.sampling
    weights = logits.astype(np.float64) / s.temperature
    weights = np.exp(weights - weights.max())
    keep = _kept(weights, s)
    if keep is not None:
        weights = np.where(keep, weights, 0.0)
    cumulative = np.cumsum(weights)
    point = uniform(row.seed, row.position) * cumulative[-1]
    return int(np.searchsorted(cumulative, point, side="right"))


def _kept(weights: NDArray[np.float64], s: SamplingParams) -> NDArray[np.bool_] | None:
    if not s.top_k and s.top_p >= 1.0 and s.min_p <= 0.0:
        return None
    keep = weights >= s.min_p  # the largest weight is 1
    order = np.argsort(-weights, kind="stable")
    if s.top_k:
        keep[order[s.top_k :]] = False
    if s.top_p < 1.0:
        ranked = np.where(keep, weights, 0.0)[order]
        before = np.cumsum(ranked) - ranked
        keep[order[before >= s.top_p * ranked.sum()]] = False
    return keep


def _top(
    scaled: NDArray[np.float64], normalizer: float, s: SamplingParams
) -> tuple[TopLogprob, ...]:
    if not s.top_logprobs:
        return ()
    best = np.argpartition(-scaled, s.top_logprobs)[: s.top_logprobs]
    best = best[np.argsort(-scaled[best], kind="stable")]
    return tuple(TopLogprob(int(i), float(scaled[i] - normalizer)) for i in best)
