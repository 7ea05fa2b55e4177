"""Can an answer be checked without knowing the right one?

check_for(problem) -> check or None       a check is told a text and says whether it is right

Finding is hard and checking is easy for these: game of 24, a mate, a sorted list. A method may use
such a check while it works; the gold answer it never sees.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

from evolute.envs.puzzles.chess_mates import mates, read_position
from evolute.envs.puzzles.game_of_24 import reaches, read_hand
from evolute.types import Problem

Check = Callable[[str], bool]
SORTING = re.compile(r"sort these words in (ascending|descending) order.*?: (.+)")


def check_for(problem: Problem) -> Check | None:
    """The check of a problem, by `extras["check"]` or what its question plainly asks."""
    question = str(problem.messages[-1]["content"]) if problem.messages else problem.id
    kind = problem.extras.get("check")
    if kind == "game-of-24" and (hand := read_hand(question)):
        numbers, target = hand
        return lambda text: reaches(text, numbers, target)
    if kind == "checkmate-in-one" and (position := read_position(question)):
        return lambda text: mates(text, position)
    if found := SORTING.search(question):
        words = [word.strip() for word in found[2].split(",")]
        return lambda text: _is_sorted(text, words, found[1] == "descending")
    return None


# -- internals ---------------------------------------------------------------


def _is_sorted(text: str, words: list[str], is_falling: bool) -> bool:
    answer = [word.strip() for word in text.strip().split(",")]
    in_order = all(a >= b if is_falling else a <= b for a, b in itertools.pairwise(answer))
    return in_order and Counter(answer) == Counter(words)
