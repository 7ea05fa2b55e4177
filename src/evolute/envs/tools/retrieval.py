"""Which texts are about these words?

    Bm25(texts).top(query, k) -> [(index, score), ...]      best first, ties by index
    words(text)                                             lower case, letters and digits

Okapi BM25 (Robertson and Zaragoza 2009) with k1 = 1.5, b = 0.75 and the idf that is never negative:
log(1 + (N - n + 0.5) / (n + 0.5)).
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

K1, B = 1.5, 0.75
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class Bm25:
    """An inverted index; a query costs what its words' lists cost."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._lists: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []
        for index, text in enumerate(texts):
            counted = Counter(words(text))
            self._lengths.append(counted.total())
            for word, number in counted.items():
                self._lists[word].append((index, number))
        self._mean = sum(self._lengths) / max(1, len(self._lengths))

    def top(self, query: str, k: int) -> list[tuple[int, float]]:
        """At most `k` texts that have a word of the query. A word asked twice counts twice."""
        scores: dict[int, float] = defaultdict(float)
        total = len(self._lengths)
        for word, times in Counter(words(query)).items():
            found = self._lists.get(word, ())
            idf = math.log(1 + (total - len(found) + 0.5) / (len(found) + 0.5))
            for index, number in found:
                norm = K1 * (1 - B + B * self._lengths[index] / self._mean)
                scores[index] += times * idf * number * (K1 + 1) / (number + norm)
        return heapq.nsmallest(k, scores.items(), key=lambda one: (-one[1], one[0]))
