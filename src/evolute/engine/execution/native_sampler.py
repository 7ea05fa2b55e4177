"""The sampler's fast way: the same choices by native code, all rows at once.

    NativeSampler(decoder).choose(logits, indices, rows) -> [Chosen | None]

What changes logits (penalties, biases, masks) is applied by the plain version to a copy of just
those rows; drawing and log-probabilities are native. `engine.sampler = "plain"` turns it off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evolute.engine.execution.sampler import (
    Chosen,
    Float32,
    Row,
    adjust,
    id_logprobs,
    needs_adjusting,
    score_temperature,
    top_logprobs,
    uniform,
)
from evolute.kernels import NativeDecoder

logger = logging.getLogger(__name__)
Int32 = NDArray[np.int32]


class NativeSampler:
    """Chooses tokens on the threads of a decoder."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder

    def choose(
        self, logits: Float32, indices: Sequence[int], rows: Sequence[Row]
    ) -> list[Chosen | None]:
        """The next token of each row from logits[index]; None where none can be chosen."""
        index = np.asarray(indices, np.int32)
        tokens = np.empty(len(rows), np.int32)
        plain = [i for i, row in enumerate(rows) if not needs_adjusting(row)]
        other = [i for i, row in enumerate(rows) if needs_adjusting(row)]
        if plain:
            tokens[plain] = self._draw(logits, index[plain], [rows[i] for i in plain])
        if other:
            adjusted = np.stack([_adjusted(logits[indices[i]], rows[i]) for i in other])
            order = np.arange(len(other), dtype=np.int32)
            tokens[other] = self._draw(adjusted, order, [rows[i] for i in other])
        temperature = np.array([score_temperature(row.sampling) for row in rows], np.float32)
        scores = self._decoder.score(logits, index, temperature, tokens)
        return [
            _chosen(int(token), float(score), logits[i], row)
            for token, score, i, row in zip(tokens, scores, indices, rows)
        ]

    def score(self, logits: Float32, tokens: Sequence[int], temperature: float) -> list[float]:
        """Log-probability of one token under each row of `logits` [R, V]."""
        count = len(tokens)
        rows = np.arange(count, dtype=np.int32)
        temperatures = np.full(count, temperature, np.float32)
        wanted = np.asarray(tokens, np.int32)
        return [float(x) for x in self._decoder.score(logits, rows, temperatures, wanted)]

    def _draw(self, logits: Float32, index: Int32, rows: list[Row]) -> Int32:
        settings = np.array(
            [
                (0.0 if s.is_greedy else s.temperature, s.top_p, s.min_p)
                for s in (row.sampling for row in rows)
            ],
            np.float32,
        )
        top_k = np.array([row.sampling.top_k for row in rows], np.int32)
        points = np.array([uniform(row.seed, row.position) for row in rows], np.float64)
        return self._decoder.draw(logits, index, settings, top_k, points)


def _chosen(token: int, score: float, logits: Float32, row: Row) -> Chosen | None:
    if not np.isfinite(score):
        return None
    sampling, temperature = row.sampling, score_temperature(row.sampling)
    top = top_logprobs(logits, sampling.top_logprobs, temperature)
    return Chosen(token, score, top, id_logprobs(logits, sampling.logprob_token_ids, temperature))


def _adjusted(logits: Float32, row: Row) -> Float32:
    """NaN for a row that fails, so that it alone is lost."""
    try:
        return adjust(logits, row)
    except Exception:
        logger.exception("a row could not be adjusted")
        return np.full_like(logits, np.nan)
