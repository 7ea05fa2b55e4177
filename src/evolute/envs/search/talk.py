"""Search-QA by tags, in the form of skyrl-gym's `search` (Search-R1, arXiv 2503.09516): an Env.

    search_talk_task("search-talk?hops=1&docs=30&turns=4&results=3")

<search>...</search> gives <information>...</information>, <answer>...</answer> ends. The reward is
1 for the exact answer, else 0. What follows a search in the same turn is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.puzzles.task import Options, between, read_options
from evolute.envs.search.answers import is_same_answer
from evolute.envs.search.task import Case, Shape, case_of, draw_cases, index_of, shape_of
from evolute.envs.tools.search import SearchIndex
from evolute.types import Env, Message, Problem, StepResult

FAMILY = "search-talk"
DEFAULTS: Options = {"hops": "1", "docs": 30, "results": 3, "names": "long", "turns": 4}
ASK = "Write <search>words</search> or <answer>answer</answer>."
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SearchTalkTask:
    """`turns` model turns in all; the last one must hold the answer."""

    name: str
    shape: Shape
    turns: int
    max_new_tokens: int = 64

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        drawn = draw_cases(self.shape, split, count, seed, self._instruction)
        return [Problem(p.id, p.messages, f"<answer>{p.gold}</answer>", p.extras) for p in drawn]

    def make(self, problem: Problem) -> Env:
        return SearchTalk(case_of(self.name, problem, self.shape), self.shape, self.turns)

    def _instruction(self, case: Case) -> str:
        lines = [case.question.text]
        if self.turns > 1:
            lines.append(
                f"You have {self.turns} turns. To search the pages write <search>words</search>; "
                "what is found comes between <information> and </information>."
            )
        lines.append("To answer write <answer>answer</answer>: the name, number or word alone.")
        return "\n".join(lines)


class SearchTalk:
    """One episode."""

    def __init__(self, case: Case, shape: Shape, turns: int) -> None:
        self._case, self._shape, self._left = case, shape, turns
        self._index: SearchIndex | None = None
        self.num_searches = 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        self._index = index_of(self._case.corpus.pages)
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self._left -= 1
        answers = _ANSWER.findall(action)
        if answers or self._left <= 0:
            given = answers[-1] if answers else None
            return StepResult(reward=float(is_same_answer(given, self._case.question.answer)))
        searches = _SEARCH.findall(action)
        told, cut = ASK, None
        if searches:
            self.num_searches += 1
            assert self._index is not None
            found = self._index.top(searches[0], self._shape.results)
            told = "\n".join(f"{page.title}: {page.text}" for page in found) or "Nothing found."
            told = f"<information>\n{told}\n</information>"
            cut = action[: action.find("</search>") + len("</search>")]
        reminder = f"{self._left} turns left" if self._left > 1 else "last turn: give the answer"
        message: Message = {"role": "user", "content": f"{told}\n[{reminder}]"}
        return StepResult((message,), 0.0, done=False, postprocessed_action=cut)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"searches": float(self.num_searches)}


def search_talk_task(name: str) -> SearchTalkTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, DEFAULTS)
    turns = between(FAMILY, options, "turns", 1, 20)
    return SearchTalkTask(name, shape_of(FAMILY, options), turns)
