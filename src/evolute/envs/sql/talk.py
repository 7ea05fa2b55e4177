"""Text to SQL by tags, in the form of skyrl-gym's `text2sql`: an Env, no tools.

    sql_talk_task("text-to-sql?level=1&turns=5&think=no")

<sql>...</sql> runs a query, whose rows come back in <observation>; <solution>...</solution> ends.
The reward is 1 for a solution with the right rows, 0 for another one, and -1 where the form is
wrong: not exactly one solution, or with `think=yes` a turn that does not begin with <think>...
</think>. Unlike there, rows are compared as a multiset, or as a list where the query orders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.code.task import run_apart
from evolute.envs.puzzles.task import Options, between, choice, read_options
from evolute.envs.sql.execute import Database, QueryRefused
from evolute.envs.sql.task import Case, Shape, case_of, draw_cases, judge, schema_lines, shape_of
from evolute.envs.tools.sql import shown
from evolute.types import Env, Message, Problem, StepResult

DEFAULTS: Options = {
    "level": "1-2",
    "rows": 12,
    "schema": "shown",
    "spelling": "fixed",
    "domains": 10,
    "turns": 5,
    "think": "no",
}
ASK = "Write <sql>query</sql> or <solution>query</solution>."
MAX_ROWS = 50
_SQL = re.compile(r"<sql>(.*?)</sql>", re.DOTALL)
_SOLUTION = re.compile(r"<solution>(.*?)</solution>", re.DOTALL)
_THINK = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SqlTalkTask:
    """`turns` model turns in all; the last one must hold the solution."""

    name: str
    shape: Shape
    turns: int
    must_think: bool
    max_new_tokens: int = 160

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """Raises ConfigError when there are fewer."""
        drawn = draw_cases(self.name, self.shape, split, count, seed, self._instruction)
        return [self._tagged(problem) for problem in drawn]

    def make(self, problem: Problem) -> Env:
        query = _SOLUTION.findall(problem.gold)[-1]
        plain = Problem(problem.id, problem.messages, query, problem.extras)
        return SqlTalk(case_of(self.name, plain, self.shape), self.turns, self.must_think)

    def _tagged(self, problem: Problem) -> Problem:
        head = "<think>\nThe query follows from the question.\n</think>\n" * self.must_think
        gold = f"{head}<solution>{problem.gold}</solution>"
        return Problem(problem.id, problem.messages, gold, problem.extras)

    def _instruction(self, case: Case, shape: Shape) -> str:
        lines = ["Answer a question to a SQLite database by one SQL query."]
        lines += [*schema_lines(case, shape), f"Question: {case.question.text}"]
        if self.must_think:
            lines += ["Begin each turn with your thoughts: <think>...</think>."]
        if self.turns > 1:
            lines += [f"You have {self.turns} turns. To see a query's rows write <sql>query</sql>."]
        return "\n".join([*lines, "To answer write <solution>query</solution>."])


class SqlTalk:
    """One episode."""

    def __init__(self, case: Case, turns: int, must_think: bool) -> None:
        self._case, self._left, self._must_think = case, turns, must_think
        self._databases: list[Database] = []
        self._has_form = True
        self._metrics = {"queries": 0.0, "runs": 0.0}

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        self._databases = [Database(script) for script in self._case.scripts]
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self._left -= 1
        self._has_form &= not self._must_think or _THINK.match(action) is not None
        solutions = _SOLUTION.findall(action)
        if len(solutions) == 1:
            return self._judged(solutions[0])
        if self._left <= 0 or len(solutions) > 1:
            return StepResult(reward=-1.0, metadata={"accuracy": 0.0})
        queries = _SQL.findall(action)
        told = self._rows(queries[-1]) if queries else ASK
        reminder = f"{self._left} turns left" if self._left > 1 else "last turn: give the solution"
        text = f"<observation>\n{told}\n</observation>\n[{reminder}]"
        cut = action[: action.rfind("</sql>") + len("</sql>")] if queries else None
        return StepResult(
            ({"role": "user", "content": text},), 0.0, done=False, postprocessed_action=cut
        )

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def get_metrics(self) -> dict[str, float]:
        return dict(self._metrics)

    # -- internals ---------------------------------------------------------------

    def _rows(self, query: str) -> str:
        self._metrics["queries"] += 1
        try:
            return shown(self._databases[0].query(query, max_rows=MAX_ROWS))
        except QueryRefused as refused:
            return f"the query failed: {refused}"

    def _judged(self, query: str) -> StepResult:
        runs, is_right = run_apart(judge(self._databases, self._case.question.query, query))
        self._metrics["runs"] = float(runs)
        if not self._has_form:
            return StepResult(reward=-1.0, metadata={"accuracy": 0.0})
        return StepResult(reward=float(is_right), metadata={"accuracy": float(is_right)})


def sql_talk_task(name: str) -> SqlTalkTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    family, options = name.partition("?")[0], read_options(name, DEFAULTS)
    shape = shape_of(family, {**options, "queries": 0})
    turns = between(family, options, "turns", 1, 20)
    must_think = choice(family, options, "think", ("no", "yes")) == "yes"
    return SqlTalkTask(name, shape, turns, must_think)
