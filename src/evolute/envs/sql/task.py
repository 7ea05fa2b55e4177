"""Answer questions to a database by a query: through tools, in several turns.

    sql_task("sql?level=1-3&rows=12&schema=shown&spelling=fixed&domains=10&queries=6")   a ToolTask

`level` is how hard, 0 to 3; `schema` what the question shows of the tables: shown (all of it),
names or hidden; `domains` what the databases are about, of ten; `queries` how many may be tried
before the answer. With `spelling=drawn` the rows
spell words in one of four ways that only the database itself tells (`domains.SPELLINGS`), so a
query is right at once one time in four: more turns are worth more. The answer is a query: it must
give the right rows on the database and on a second filling of it, so no constant passes. Rows count
as a multiset unless the question asks for an order (SkyRL's set equality forgives duplicates).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from evolute.envs.base import split_of
from evolute.envs.blocking import run_blocking
from evolute.envs.puzzles.task import Options, between, choice, read_options
from evolute.envs.sql.domains import DOMAINS, SPELLINGS, Domain, draw_names, script_of
from evolute.envs.sql.execute import Database, QueryRefused
from evolute.envs.sql.questions import Question, draw_question
from evolute.envs.sql.rows import is_ordered, same_rows
from evolute.envs.tools.contract import Grade, Tool
from evolute.envs.tools.finish import Finish
from evolute.envs.tools.sql import SqlTool
from evolute.envs.tools.worlds import Call, Lifetime
from evolute.types import ConfigError, Message, Problem

DEFAULTS: Options = {
    "level": "1-2",
    "rows": 12,
    "schema": "shown",
    "spelling": "fixed",
    "domains": len(DOMAINS),
    "queries": 6,
}
MAX_ROWS = 5000
SPELT = "The rows spell all words in one of these ways: north, #north, [north], north."
JUDGE_S = 35.0  # of one query: its own limit, and the machine's
TRIES = 4000  # databases drawn without one that fits


@dataclass(frozen=True, slots=True)
class Shape:
    levels: tuple[int, int]
    rows: int
    schema: str
    queries: int
    spelling: str = "fixed"
    domains: int = len(DOMAINS)


@dataclass(frozen=True, slots=True)
class Case:
    """A database in two fillings, and a question to it."""

    domain: Domain
    scripts: tuple[str, str]
    question: Question


Instruct = Callable[[Case, Shape], str]


@dataclass(frozen=True, slots=True)
class SqlTask:
    """A problem is its seed; neither a database nor a question's text is in both splits."""

    name: str
    shape: Shape

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """Raises ConfigError when there are fewer."""
        return draw_cases(self.name, self.shape, split, count, seed, instruction)

    def world(self, problem: Problem) -> SqlWorld:
        return SqlWorld(problem, case_of(self.name, problem, self.shape), self.shape)

    def gold_calls(self, problem: Problem) -> Sequence[Call]:
        look = ("sql", {"query": "SELECT sql FROM sqlite_master"})
        looks: list[Call] = [look] if self.shape.schema != "shown" else []
        calls = [*looks, ("sql", {"query": problem.gold}), ("finish", {"answer": problem.gold})]
        return calls[-self.shape.queries - 1 :]


class SqlWorld(Lifetime):
    """Two databases in memory: one to ask, one to judge by as well."""

    def __init__(self, problem: Problem, case: Case, shape: Shape) -> None:
        super().__init__()
        self._problem, self._case, self._shape = problem, case, shape
        self._databases: list[Database] = []

    async def open(self, stack: AsyncExitStack) -> None:
        self._databases = [Database(script) for script in self._case.scripts]
        for database in self._databases:
            stack.callback(database.close)

    def instruction(self) -> Sequence[Message]:
        return self._problem.messages

    def tools(self) -> Sequence[Tool]:
        finish = Finish(
            description="Hand in the query whose result answers the question; ends the task.",
            what="the SQL query itself, not its result",
        )
        if self._shape.queries == 0:
            return (finish,)
        return (SqlTool(self._databases[0], num_queries=self._shape.queries), finish)

    async def grade(self, answer: str | None) -> Grade:
        if not answer or not answer.strip():
            return Grade(0.0, False, {"runs": 0.0})
        runs, is_right = await judge(self._databases, self._case.question.query, answer)
        return Grade(float(is_right), is_right, {"runs": float(runs)})


def sql_task(name: str) -> SqlTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    return SqlTask(name, shape_of(name.partition("?")[0], read_options(name, DEFAULTS)))


def shape_of(family: str, options: Options) -> Shape:
    low, _, high = str(options["level"]).partition("-")
    if not all(one in ("0", "1", "2", "3") for one in (low, high or low)) or low > (high or low):
        raise ConfigError(
            f"option 'level' of task {family!r} is {options['level']!r}; it is 0, 1, 2 or 3, or a "
            "range such as 1-2."
        )
    return Shape(
        (int(low), int(high or low)),
        between(family, options, "rows", 4, 200),
        choice(family, options, "schema", ("shown", "names", "hidden")),
        between(family, options, "queries", 0, 50),
        choice(family, options, "spelling", ("fixed", "drawn")),
        between(family, options, "domains", 1, len(DOMAINS)),
    )


async def judge(databases: Sequence[Database], gold: str, query: str) -> tuple[bool, bool]:
    """Does the query run, and does it give the gold query's rows on each database? All of it in
    one thread: a busy machine starts few."""
    seconds = JUDGE_S * 2 * len(databases)
    found: tuple[bool, bool] = await run_blocking(
        _judged, databases, gold, query, timeout_s=seconds
    )
    return found


def _judged(databases: Sequence[Database], gold: str, query: str) -> tuple[bool, bool]:
    for database in databases:
        right = database.query(gold, max_rows=MAX_ROWS)
        try:
            given = database.query(unfenced(query), max_rows=MAX_ROWS)
        except QueryRefused:
            return False, False
        if given.is_cut or not same_rows(given.rows, right.rows, ordered=is_ordered(gold)):
            return True, False
    return True, True


def unfenced(query: str) -> str:
    """A query without the fence that models like to put around it."""
    text = query.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].strip()
        text = text[3:].strip() if text[:3].lower() == "sql" else text
    return text


def draw_cases(
    name: str, shape: Shape, split: str, count: int, seed: int, instruct: Instruct
) -> list[Problem]:
    """Problems of cases, the same for the same seed however they are played."""
    source = random.Random(f"sql/{shape.levels}/{shape.rows}/{split}/{seed}")
    found: dict[str, Problem] = {}
    vain = 0
    while len(found) < count:
        key = f"{split}/{source.getrandbits(48):012x}"
        case = draw_case(key, shape)
        vain += 1
        if vain > TRIES:
            raise ConfigError(
                f"task {name!r} has only {len(found)} problems in split {split!r}, {count} were "
                "asked for; ask for fewer."
            )
        if case is None:
            continue
        text = f"{key}: {case.question.text}"
        message: Message = {"role": "user", "content": instruct(case, shape)}
        found[text] = Problem(text, (message,), case.question.query, {"sql": key})
        vain = 0
    return list(found.values())


def case_of(name: str, problem: Problem, shape: Shape) -> Case:
    """Raises ConfigError for a problem of another family or of other options."""
    key = problem.extras.get("sql")
    case = draw_case(key, shape) if isinstance(key, str) else None
    if case is None or case.question.query != problem.gold:
        raise ConfigError(f"problem {problem.id[:80]!r} is none of {name!r}.")
    return case


def draw_case(key: str, shape: Shape) -> Case | None:
    """None when the drawn question belongs to the other split, or its answer is empty."""
    source = random.Random(key)
    domain = DOMAINS[source.choice(sorted(DOMAINS)[: shape.domains])]
    names = draw_names(source, shape.rows)
    stored, level = domain, source.randint(*shape.levels)
    before = source.getstate()
    question = draw_question(source, domain, names, level)
    if split_of(question.text) != key.partition("/")[0]:
        return None
    nothing: tuple[int | None, ...] = (None,)
    if shape.spelling == "drawn":
        stored = domain.spelt(random.Random(f"{key}/spelling").choice(SPELLINGS))
        source.setstate(before)  # the same question, to the words as they are stored
        question = Question(question.text, draw_question(source, stored, names, level).query)
        nothing = (None, 0)  # what a wrong spelling gives as well
    scripts = (script_of(stored, names, source), script_of(stored, names, source))
    database = Database(scripts[0])
    rows = database.query(question.query).rows
    database.close()
    is_empty = all(value in nothing for row in rows for value in row)
    return None if is_empty else Case(domain, scripts, question)


def instruction(case: Case, shape: Shape) -> str:
    """What the agent is told."""
    lines = ["Answer a question to a SQLite database by one SQL query.", *schema_lines(case, shape)]
    lines += [f"Question: {case.question.text}"]
    lines += ["Give the columns in the order in which the question names them, and no others."]
    if shape.queries:
        lines += [f"You may try {shape.queries} queries with `sql`."]
    return "\n".join([*lines, "Hand in the query with `finish`."])


def schema_lines(case: Case, shape: Shape) -> list[str]:
    tables = (case.domain.parent, case.domain.child)
    lines: list[str] = []
    if shape.schema == "shown":
        lines = ["Tables:", *(case.domain.schema(table) for table in tables)]
    elif shape.schema == "names":
        lines = [f"Tables: {', '.join(table.name for table in tables)}"]
    return [*lines, SPELT] if shape.spelling == "drawn" else lines
