"""Worlds with rewards, episodes in them, and accuracy measured on them."""

from evolute.envs.base import TextEnv, split_of
from evolute.envs.episode import run_episode
from evolute.envs.evaluate import Accuracy, evaluate
from evolute.envs.intervals import Interval, mean_interval, paired_difference, wilson
from evolute.envs.player import EpisodePlayer
from evolute.envs.registry import make_task, task_names, validate

__all__ = [
    "Accuracy",
    "EpisodePlayer",
    "Interval",
    "TextEnv",
    "evaluate",
    "make_task",
    "mean_interval",
    "paired_difference",
    "run_episode",
    "split_of",
    "task_names",
    "validate",
    "wilson",
]
