"""Word problems and contest problems, generated, with the answer forms of GSM8K and AIME."""

from evolute.envs.maths.contest import contest_task
from evolute.envs.maths.minerva import is_right, normalised
from evolute.envs.maths.word_problems import word_problem_task

__all__ = ["contest_task", "is_right", "normalised", "word_problem_task"]
