"""From logits to tokens, one row at a time in the plain version.

    choose(logits, row) -> Chosen        next token of one row and its log-probability
    PlainSampler()                       all rows of a step; `native_sampler` is its fast twin

The log-probability is the model's at the row's temperature, before penalties, masks and
truncation. A row's draw depends on its seed and position only, never on the batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evolute.types import SamplingParams, TopLogprob

logger = logging.getLogger(__name__)
Float32 = NDArray[np.float32]
MASK64 = (1 << 64) - 1
HUGE = 1e30


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
    ids: tuple[float, ...] = ()  # log-probabilities of `logprob_token_ids`


class NotANumber(ValueError):
    """A row leaves nothing to choose from; only this request is lost."""


class Sampler(Protocol):
    """Chooses the tokens of a step."""

    def choose(
        self, logits: Float32, indices: Sequence[int], rows: Sequence[Row]
    ) -> list[Chosen | None]:
        """The next token of each row from logits[index]; None where none can be chosen."""
        ...

    def score(self, logits: Float32, tokens: Sequence[int], temperature: float) -> list[float]:
        """Log-probability of one token under each row of `logits` [R, V]."""
        ...


class PlainSampler:
    """Row by row: the oracle."""

    def choose(
        self, logits: Float32, indices: Sequence[int], rows: Sequence[Row]
    ) -> list[Chosen | None]:
        return [_choose_or_none(logits[index], row) for index, row in zip(indices, rows)]

    def score(self, logits: Float32, tokens: Sequence[int], temperature: float) -> list[float]:
        return [logprob_of(row, token, temperature) for row, token in zip(logits, tokens)]


def choose(logits: Float32, row: Row) -> Chosen:
    """Choose the next token from `logits` [V]. Raises NotANumber."""
    sampling = row.sampling
    scaled = logits.astype(np.float64) / score_temperature(sampling)
    normalizer = _log_sum_exp(scaled)
    if not np.isfinite(normalizer):
        raise NotANumber("the model's logits are not finite")
    adjusted = adjust(logits, row)
    if adjusted.max() == -np.inf:
        raise NotANumber("every token is barred")
    token = int(adjusted.argmax()) if sampling.is_greedy else _draw(adjusted, row)
    temperature = score_temperature(sampling)
    return Chosen(
        token,
        float(scaled[token] - normalizer),
        top_logprobs(logits, sampling.top_logprobs, temperature),
        id_logprobs(logits, sampling.logprob_token_ids, temperature),
    )


def score_temperature(sampling: SamplingParams) -> float:
    """The temperature at which log-probabilities are told."""
    return 1.0 if sampling.is_greedy else sampling.temperature


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


def adjust(logits: Float32, row: Row) -> Float32:
    """Logits [V] with penalties, biases and masks; the same array when there is nothing to do."""
    if not needs_adjusting(row):
        return logits
    s, out = row.sampling, logits.copy()
    if s.repetition_penalty != 1.0:
        seen = np.fromiter({*row.prompt, *row.output}, np.int64)
        values, penalty = out[seen].astype(np.float64), s.repetition_penalty
        with np.errstate(over="ignore"):  # a penalty may be as small as floats are
            scaled = np.where(values > 0, values / penalty, values * penalty)
        out[seen] = np.clip(scaled, -HUGE, HUGE)  # finite in float32; not a number stays so
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


def top_logprobs(
    logits: Float32, count: int, temperature: float, normalizer: float | None = None
) -> tuple[TopLogprob, ...]:
    """The `count` most probable tokens of `logits` [V], the best first."""
    if not count:
        return ()
    count = min(count, len(logits))
    best = np.argpartition(-logits, count - 1)[:count]
    values = id_logprobs(logits, best, temperature, normalizer)
    ranked = sorted(zip(values, best), key=lambda pair: (-pair[0], pair[1]))
    return tuple(TopLogprob(int(i), value) for value, i in ranked)


def id_logprobs(
    logits: Float32,
    ids: Sequence[int] | NDArray[np.int64],
    temperature: float,
    normalizer: float | None = None,
) -> tuple[float, ...]:
    """Log-probabilities of chosen tokens under `logits` [V], in the order of `ids`.

    `normalizer` spares the sum over the vocabulary where it is known.
    """
    if not len(ids):
        return ()
    if normalizer is None:
        normalizer = _log_sum_exp(logits.astype(np.float64) / temperature)
    values = logits[np.asarray(ids)].astype(np.float64) / temperature - normalizer
    return tuple(float(value) for value in values)


def normalizer_of(logits: Float32, token: int, logprob: float, temperature: float) -> float | None:
    """What a token's known log-probability says of its row; None when that is nothing finite."""
    value = float(logits[token]) / temperature - logprob
    return value if np.isfinite(value) else None


# -- internals ---------------------------------------------------------------


def _choose_or_none(logits: Float32, row: Row) -> Chosen | None:
    try:
        return choose(logits, row)
    except NotANumber:
        return None
    except Exception:  # of one row; the others are not to blame
        logger.exception("a row could not be sampled")
        return None


def _log_sum_exp(scaled: NDArray[np.float64]) -> float:
    high = scaled.max()
    return float(high + np.log(np.exp(scaled - high).sum()))


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
