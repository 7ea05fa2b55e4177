"""Games of several turns: words to guess, grids to cross."""

from evolute.envs.games.grid import grid_task
from evolute.envs.games.hangman import hangman_task
from evolute.envs.games.wordle import marks, wordle_task

__all__ = ["grid_task", "hangman_task", "marks", "wordle_task"]
