"""An embedder without a model: texts that share words are alike.

HashingEmbedder(dimension=256)      words and pairs of words, hashed; the same on every machine
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class HashingEmbedder:
    """Implements `evolute.reasoning.thought_buffer.Embedder`. `embedded` is what it was asked."""

    def __init__(self, dimension: int = 256, name: str = "hashing") -> None:
        self.dimension, self.name = dimension, f"{name}-{dimension}"
        self.embedded: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows (n, dimension); a text without words is the first axis."""
        self.embedded += texts
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts):
            words = re.findall(r"\w+", text.lower())
            for feature in [*words, *map(" ".join, itertools.pairwise(words))]:
                digest = hashlib.sha256(feature.encode()).digest()
                place = int.from_bytes(digest[:4], "big") % self.dimension
                row[place] += 1 if digest[4] % 2 else -1
            if not row.any():
                row[0] = 1
            row /= np.linalg.norm(row)
        return rows
