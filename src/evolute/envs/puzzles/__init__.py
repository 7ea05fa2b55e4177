"""Generated puzzles with exact verifiers."""

from evolute.envs.puzzles.checks import check_for
from evolute.envs.puzzles.registry import PUZZLES, puzzle_task

__all__ = ["PUZZLES", "check_for", "puzzle_task"]
