"""Puzzles by name.

PUZZLES                              family -> how its task is made from a name with options
puzzle_task("game-of-24?target=36")
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.envs.puzzles.chess_mates import checkmate_in_one
from evolute.envs.puzzles.dates import dates
from evolute.envs.puzzles.game_of_24 import game_of_24
from evolute.envs.puzzles.shapes import shapes
from evolute.envs.puzzles.tables import table_questions
from evolute.envs.puzzles.task import PuzzleTask

PUZZLES: dict[str, Callable[[str], PuzzleTask]] = {
    "checkmate-in-one": checkmate_in_one,
    "dates": dates,
    "game-of-24": game_of_24,
    "shapes": shapes,
    "table-questions": table_questions,
}


def puzzle_task(name: str) -> PuzzleTask:
    """A puzzle by its name with options. The family must be one of PUZZLES; raises ConfigError for
    unknown options."""
    return PUZZLES[name.partition("?")[0]](name)
