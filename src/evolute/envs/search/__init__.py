"""Questions whose answers are found by searching a corpus."""

from evolute.envs.search.answers import is_same_answer, plain_answer
from evolute.envs.search.corpus import Page
from evolute.envs.search.talk import search_talk_task
from evolute.envs.search.task import SearchTask, search_task

__all__ = [
    "Page",
    "SearchTask",
    "is_same_answer",
    "plain_answer",
    "search_talk_task",
    "search_task",
]
